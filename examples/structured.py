"""An answer that is JSON of a given shape, whatever the model.

Start the server first: make serve
"""

import json
import os

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8765"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "local"),
)
answer = client.messages.create(
    model="claude-haiku",
    max_tokens=200,
    messages=[
        {"role": "user", "content": "Paris is the capital of France. Name city and country."}
    ],
    output_config={
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "pattern": "^[A-Za-z ]{1,30}$"},
                    "country": {"type": "string", "pattern": "^[A-Za-z ]{1,30}$"},
                    "capital": {"type": "boolean"},
                },
                "required": ["city", "country", "capital"],
                "additionalProperties": False,
            },
        }
    },
)
text = "".join(block.text for block in answer.content if block.type == "text")
print(text)
if answer.stop_reason == "end_turn" and text.startswith("{"):
    print("parsed:", json.loads(text))
