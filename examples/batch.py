"""Many requests at once that nobody waits for: a batch through the official client, its results
read when it has ended. Start the server first: make serve

The server works on it when it has nothing else to do, and goes on with it after a restart.
"""

import os
import time

import anthropic
from anthropic.types.messages.batch_create_params import Request

client = anthropic.Anthropic(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8765"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "local"),
)
subjects = ["the-sea", "a-frog", "a-tax-office"]
requests: list[Request] = [
    {
        "custom_id": subject,
        "params": {
            "model": "claude-haiku",
            "max_tokens": 60,
            "messages": [{"role": "user", "content": f"Write a senryu about {subject}."}],
        },
    }
    for subject in subjects
]
batch = client.messages.batches.create(requests=requests)
print(f"{batch.id}: {batch.request_counts.processing} requests")
while batch.processing_status != "ended":
    time.sleep(0.5)
    batch = client.messages.batches.retrieve(batch.id)
for line in client.messages.batches.results(batch.id):  # in any order
    if line.result.type == "succeeded":
        text = "".join(block.text for block in line.result.message.content if block.type == "text")
        print(f"\n{line.custom_id}:\n{text}")
    else:  # errored, canceled or expired
        print(f"\n{line.custom_id}: {line.result.type}")
client.messages.batches.delete(batch.id)
