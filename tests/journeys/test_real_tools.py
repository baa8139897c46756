"""Tools and forms of answers, with the real model over HTTP, through the official client."""

import json
from typing import Any

import anthropic
import jsonschema
import pytest
from fuzzing import TIMES

from .conftest import Served

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CALLS = 10 if TIMES == 1 else 200
MODEL = "claude-haiku-4-5"
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "pattern": "^[A-Za-z ]{1,20}$"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
SUM = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 0, "maximum": 1000},
            "b": {"type": "integer", "minimum": 0, "maximum": 1000},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    tool["name"]: tool["input_schema"]
    for tool in (WEATHER, SUM)  # type: ignore[misc]
}
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture
def client(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key="local", max_retries=0)


def test_a_forced_call_comes_and_fits_plain_and_streamed(client: anthropic.Anthropic) -> None:
    ask: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 200,
        "messages": ASKED,
        "tools": [WEATHER, SUM],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    }
    plain = client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        fragments = [
            event.delta.partial_json
            for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
        streamed = stream.get_final_message()
    for answer in (plain, streamed):
        (call,) = answer.content
        assert (call.type, call.name, answer.stop_reason) == ("tool_use", "get_weather", "tool_use")
        jsonschema.validate(call.input, SCHEMAS["get_weather"])
    assert json.loads("".join(fragments)) == streamed.content[0].input


def test_a_loop_of_three_turns(client: anthropic.Anthropic) -> None:
    """Two calls, each answered, one of them with a failure; then words."""
    turns: list[Any] = list(ASKED)
    for number, choice in enumerate(({"type": "any"}, {"type": "any"}, {"type": "none"})):
        choice = {**choice, **({} if number == 2 else {"disable_parallel_tool_use": True})}
        answer = client.messages.create(
            model=MODEL,
            max_tokens=150,
            messages=turns,
            tools=[WEATHER, SUM],
            tool_choice=choice,
        )
        turns.append({"role": "assistant", "content": answer.content})
        if number == 2:
            break
        (call,) = answer.content
        assert answer.stop_reason == "tool_use"
        jsonschema.validate(call.input, SCHEMAS[call.name])
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 21 degrees."}
        turns.append({"role": "user", "content": [{**result, "is_error": number == 0}]})
    (words,) = answer.content
    assert words.type == "text"
    assert "<tool_call>" not in words.text


def test_an_answer_in_the_form_that_was_asked_for(client: anthropic.Anthropic) -> None:
    schema = SCHEMAS["get_weather"]
    answer = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=ASKED,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert answer.stop_reason == "end_turn"
    jsonschema.validate(json.loads(answer.content[0].text), schema)


@pytest.mark.parametrize("choice", ["auto", "any", "none"])
def test_usage_is_what_count_tokens_says_with_tools(
    client: anthropic.Anthropic, choice: str
) -> None:
    ask: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "tools": [WEATHER, SUM],
        "tool_choice": {"type": choice},
    }
    counted = client.messages.count_tokens(**ask).input_tokens
    usage = client.messages.create(max_tokens=3, **ask).usage
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    assert prompt == counted
    assert counted > client.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens + 20


@pytest.mark.fuzz
def test_calls_of_the_real_model_are_whole(client: anthropic.Anthropic) -> None:
    for number in range(CALLS):
        answer = client.messages.create(
            model=MODEL,
            max_tokens=200,
            messages=[{"role": "user", "content": f"Add {number} and {number * 7}."}],
            tools=[WEATHER, SUM],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
        (call,) = answer.content
        assert answer.stop_reason == "tool_use"
        jsonschema.validate(call.input, SCHEMAS[call.name])


def test_a_hostile_schema_is_refused_and_the_server_goes_on(client: anthropic.Anthropic) -> None:
    patterns = {f"p{n}": {"type": "string", "pattern": f"^[a-z ]{{9,{n}}}$"} for n in range(40, 99)}
    hostile = {"type": "object", "properties": patterns, "required": list(patterns)}
    with pytest.raises(anthropic.BadRequestError, match=r"to compile"):
        client.messages.create(
            model=MODEL,
            max_tokens=10,
            messages=ASKED,
            output_config={"format": {"type": "json_schema", "schema": hostile}},
        )
    answer = client.messages.create(model=MODEL, max_tokens=3, messages=ASKED)
    assert answer.usage.output_tokens == 3
