"""An official client of two years ago gets the same answers, streamed or not.

It lives in an environment of its own: see `old_python` in tests/conftest.py.
"""

import json
import subprocess
from typing import Any

import pytest

from senryu.server.engine.scripted import POEM

SCRIPT = """
import json, sys
import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="local")
ask = {
    "model": "claude-3-5-haiku-latest",
    "max_tokens": 100,
    "temperature": 0,
    "stop_sequences": ["questions"],
    "messages": [{"role": "user", "content": "Write a senryu."}],
}
plain = client.messages.create(**ask)
with client.messages.stream(**ask) as stream:
    said = "".join(stream.text_stream)
    final = stream.get_final_message()
count = client.beta.messages.count_tokens(model=ask["model"], messages=ask["messages"])
try:
    client.messages.create(**{**ask, "model": "nope"})
    refused = None
except anthropic.NotFoundError as error:
    refused = error.body["error"]["message"]
shown = [m.model_dump(include={"content", "stop_reason", "usage"}) for m in (plain, final)]
print(json.dumps({
    "version": anthropic.__version__,
    "plain": shown[0],
    "streamed": shown[1],
    "said": said,
    "count": count.input_tokens,
    "refused": refused,
}))
"""

TOOLS = """
import json, sys
import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="local", max_retries=0)
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ask = {
    "model": "claude-3-5-haiku-latest",
    "max_tokens": 200,
    "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": schema}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
}
plain = client.messages.create(**ask)
with client.messages.stream(**ask) as stream:
    pieces = [event.partial_json for event in stream if event.type == "input_json"]
    final = stream.get_final_message()
count = client.beta.messages.count_tokens(
    **{k: v for k, v in ask.items() if k != "max_tokens"}
)
results = [
    {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
    for block in final.content
    if block.type == "tool_use"
]
history = [
    *ask["messages"],
    {"role": "assistant", "content": final.content},
    {"role": "user", "content": results},
]
last = client.messages.create(**{**ask, "messages": history})
shown = [m.model_dump(include={"content", "stop_reason", "usage"}) for m in (plain, final)]
print(json.dumps({
    "plain": shown[0],
    "streamed": shown[1],
    "pieces": pieces,
    "count": count.input_tokens,
    "last": last.content[0].text,
}))
"""
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def told(python: str, script: str, url: str) -> Any:
    """What a script says in the old client's environment."""
    done = subprocess.run([python, "-c", script, url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_an_old_client_gets_the_same_streamed_or_not(old_python: str, server: Any) -> None:
    answer = told(old_python, SCRIPT, server.url)
    assert answer["version"].startswith("0.")
    assert answer["plain"] == answer["streamed"]
    assert answer["plain"]["stop_reason"] == "stop_sequence"
    assert answer["said"] == answer["plain"]["content"][0]["text"] == POEM.partition("questions")[0]
    assert answer["count"] == answer["plain"]["usage"]["input_tokens"]
    assert answer["refused"] == "model: nope"


@pytest.mark.slow
def test_an_old_client_calls_tools(old_python: str, serve: Any, talking_engine: Any) -> None:
    calls = f"Let me look.\n{CALL}\n{CALL}"
    server = serve(talking_engine(calls, calls, "It is sunny."))
    answer = told(old_python, TOOLS, server.url)
    for message in (answer["plain"], answer["streamed"]):
        said, *called = message["content"]
        assert said["text"].strip() == "Let me look."
        assert [call["input"] for call in called] == [{"city": "Paris"}] * 2
        assert message["stop_reason"] == "tool_use"
    assert answer["plain"]["usage"] == answer["streamed"]["usage"]
    assert "".join(answer["pieces"]) == 2 * '{"city": "Paris"}'
    assert answer["count"] == answer["plain"]["usage"]["input_tokens"]
    assert answer["last"] == "It is sunny."
