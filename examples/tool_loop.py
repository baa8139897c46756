"""The model asks for the weather, this program looks it up, the model answers: a tool loop through
the official client. Start the server first: make serve

The first call is forced, because a very small model does not think of calling by itself; a call
that was asked for is always well formed and fits its schema.
"""

import json
import os

import anthropic
from anthropic.types import MessageParam, ToolChoiceParam, ToolParam, ToolResultBlockParam

client = anthropic.Anthropic(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8765"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "local"),
)
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city now.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


def get_weather(asked: object) -> str:
    return json.dumps({"asked": asked, "temperature": 21, "sky": "clear"})


messages: list[MessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
choice: ToolChoiceParam = {"type": "tool", "name": "get_weather"}
for _ in range(5):
    answer = client.messages.create(
        model="claude-haiku",
        max_tokens=200,
        tools=[WEATHER],
        tool_choice=choice,
        messages=messages,
    )
    messages.append({"role": "assistant", "content": answer.content})
    results: list[ToolResultBlockParam] = []
    for block in answer.content:
        if block.type == "text":
            print(block.text)
        if block.type == "tool_use":
            print(f"-> {block.name}({json.dumps(block.input)})")
            result = get_weather(block.input)
            print(f"<- {result}")
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": result})
    if not results:
        break
    messages.append({"role": "user", "content": results})
    choice = {"type": "auto"}
