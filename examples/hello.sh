#!/bin/sh
# One question with curl. Start the server first: make serve
set -eu
url="${ANTHROPIC_BASE_URL:-http://127.0.0.1:8765}"
curl --silent --show-error --fail-with-body "$url/v1/messages" \
  -H "x-api-key: ${ANTHROPIC_API_KEY:-local}" \
  -H "anthropic-version: 2023-06-01" \
  -d '{
    "model": "claude-haiku",
    "max_tokens": 64,
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the capital of France?"}]
  }'
echo
