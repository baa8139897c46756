"""A streamed answer through the official client. Start the server first: make serve

The only line that differs from a program for the hosted API is the base_url.
"""

import os

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8765"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "local"),
)
with client.messages.stream(
    model="claude-haiku",
    max_tokens=200,
    messages=[{"role": "user", "content": "Tell me about the sea in three sentences."}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
    usage = stream.get_final_message().usage
print(f"\n\n{usage.input_tokens} tokens in, {usage.output_tokens} out")
