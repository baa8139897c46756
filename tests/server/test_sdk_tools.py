"""The official client calls tools: plain, streamed, in parallel, and in its own tool loop."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_async_tool, beta_tool
from anthropic.lib.tools import ToolError
from anthropic.tools.memory import BetaLocalFilesystemMemoryTool

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city now.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TIME: dict[str, Any] = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
ASK: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 500,
    "tools": [WEATHER, TIME],
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
}
CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
)
CLOCK = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
INPUT = {"city": "Paris", "days": 2}


def both_ways(client: Anthropic, **ask: Any) -> Iterator[Any]:
    """The answer as it comes at once, and as the client's accumulator adds it up."""
    yield client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        yield stream.get_final_message()


def without_ids(message: Any) -> dict[str, Any]:
    """What has to be the same in two answers to one question."""
    told: dict[str, Any] = message.model_dump(exclude={"id", "parsed_output"})
    for block in told["content"]:
        block.pop("id", None)
        block.pop("parsed_output", None)
    return told


def results(message: Any, *said: str, **changed: Any) -> list[Any]:
    """The conversation one round on: what was called, and what came of each call."""
    calls = [block for block in message.content if block.type == "tool_use"]
    told = [
        {"type": "tool_result", "tool_use_id": call.id, "content": text, **changed}
        for call, text in zip(calls, said, strict=True)
    ]
    return [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": told},
    ]


def test_a_call_arrives_with_its_input_read(client_of: Any) -> None:
    for message in both_ways(client_of(f"Let me look.\n{CALL}"), **ASK):
        said, call = message.content
        assert (said.type, said.text.strip()) == ("text", "Let me look.")
        assert (call.type, call.name, call.input) == ("tool_use", "get_weather", INPUT)
        assert call.id.startswith("toolu_")
        assert call.caller.type == "direct"
        assert message.stop_reason == "tool_use"


def test_parallel_calls_arrive_in_their_order(client_of: Any) -> None:
    for message in both_ways(client_of(f"{CALL}\n{CLOCK}\n{CALL}"), **ASK):
        calls = [(call.name, call.input) for call in message.content]
        assert calls == [("get_weather", INPUT), ("get_time", {}), ("get_weather", INPUT)]
        assert len({call.id for call in message.content}) == 3


@pytest.mark.parametrize("script", [CALL, f"So be it. {CALL}\n{CLOCK}", "No tool is needed."])
def test_a_streamed_answer_is_the_plain_one(client_of: Any, script: str) -> None:
    plain, streamed = both_ways(client_of(script), **ASK)
    assert without_ids(plain) == without_ids(streamed)


def test_an_inputs_fragments_add_up_to_it(client_of: Any) -> None:
    long = {"city": "Paris " * 50, "days": 2}
    script = CALL.replace('"Paris"', f'"{long["city"]}"')
    with client_of(script).messages.stream(**ASK) as stream:
        pieces = [event for event in stream if event.type == "input_json"]
    assert len([piece for piece in pieces if piece.partial_json]) > 3
    assert pieces[-1].snapshot == long


def test_a_tool_is_forced_by_name(client_of: Any) -> None:
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    for message in both_ways(client_of(CALL), **ASK, tool_choice=choice):
        (call,) = message.content
        assert (call.name, message.stop_reason) == ("get_weather", "tool_use")


def test_with_choice_none_nothing_is_called(client_of: Any) -> None:
    for message in both_ways(client_of("It is sunny."), **ASK, tool_choice={"type": "none"}):
        assert [block.type for block in message.content] == ["text"]
        assert message.stop_reason == "end_turn"


def test_a_call_that_max_tokens_cuts_off_breaks_nothing(client_of: Any) -> None:
    client = client_of(f"Let me look. {CALL}")
    for message in both_ways(client, **ASK | {"max_tokens": 6}):
        assert message.stop_reason == "max_tokens"
        assert "<tool_call>" not in str(message.content)


@pytest.mark.parametrize("failed", [False, True])
def test_the_model_reads_what_came_of_its_calls(
    serve: Any, talking_engine: Any, failed: bool
) -> None:
    engine = talking_engine(f"{CALL}\n{CLOCK}", "It is sunny.")
    with Anthropic(base_url=serve(engine).url, api_key="local") as client:
        first = client.messages.create(**ASK)
        history = results(first, "21 degrees", "noon", is_error=failed)
        second = client.messages.create(**ASK | {"messages": history})
    assert second.content[0].text == "It is sunny."
    shown = engine.read[1]
    assert shown.index("get_weather") < shown.index("21 degrees") < shown.index("noon")
    assert engine.read[1].startswith(engine.read[0].removesuffix("\nassistant\n").rstrip())
    read_twice = engine.read[1].replace("The tool failed", "")
    assert (read_twice != engine.read[1]) is failed


def test_a_conversation_with_calls_counts_as_it_is_charged(client_of: Any) -> None:
    client = client_of(CALL, "It is sunny.")
    first = client.messages.create(**ASK)
    history = results(first, "21 degrees")
    for messages in (ASK["messages"], history):
        asked = {"model": ASK["model"], "tools": ASK["tools"], "messages": messages}
        asked["system"] = [{"type": "text", "text": "Be brief."}]
        asked["tool_choice"] = {"type": "auto"}
        count = client.messages.count_tokens(**asked).input_tokens
        assert count == client.messages.create(**asked, max_tokens=9).usage.input_tokens
        assert count == client.beta.messages.count_tokens(**asked).input_tokens


def test_a_call_without_its_result_is_the_clients_bad_request(client_of: Any) -> None:
    client = client_of(CALL)
    first = client.messages.create(**ASK)
    history = [*results(first, "21 degrees")[:-1], {"role": "user", "content": "And now?"}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**ASK | {"messages": history})
    assert "`tool_use` ids were found without `tool_result` blocks" in caught.value.message
    assert caught.value.request_id


def test_a_tool_that_the_hosted_service_runs_is_refused_by_name(client_of: Any) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        client_of("").messages.create(**ASK | {"tools": [search]})


# --- the client's own loop ---------------------------------------------------------------------


@beta_tool
def get_weather(city: str, days: int = 1) -> str:
    """The weather in a city.

    Args:
        city: The city.
        days: How many days to look ahead.
    """
    return f"{days} days of sun in {city}"


@beta_tool
def get_time() -> str:
    """The time now."""
    raise ToolError("the clock is broken")


RUN: dict[str, Any] = {**ASK, "tools": [get_weather, get_time]}


def test_the_tool_runner_finds_its_way_without_threads(serve: Any, talking_engine: Any) -> None:
    """By default it opens a thread on the server; told that there are none, it goes on without,
    and every later request carries the whole conversation."""
    engine = talking_engine(f"{CALL}\n{CLOCK}", "It is sunny.")
    with Anthropic(base_url=serve(engine).url, api_key="local") as client:
        messages = list(client.beta.messages.tool_runner(**RUN))
    assert [message.stop_reason for message in messages] == ["tool_use", "end_turn"]
    assert messages[-1].content[0].text == "It is sunny."
    assert len(engine.read) == 2
    assert "What is the weather in Paris?" in engine.read[1]
    assert "2 days of sun in Paris" in engine.read[1]
    assert "the clock is broken" in engine.read[1]


def test_the_tool_runner_streams(serve: Any, talking_engine: Any) -> None:
    engine = talking_engine(CALL, CALL, "It is sunny.")
    reasons = []
    with Anthropic(base_url=serve(engine).url, api_key="local") as client:
        for stream in client.beta.messages.tool_runner(**RUN, stream=True):
            reasons.append(stream.get_final_message().stop_reason)
    assert reasons == ["tool_use", "tool_use", "end_turn"]
    assert engine.read[2].count("2 days of sun in Paris") == 2


async def test_the_async_tool_runner_does_the_same(serve: Any, talking_engine: Any) -> None:
    @beta_async_tool
    async def get_weather(city: str, days: int = 1) -> str:
        """The weather in a city."""
        return f"{days} days of sun in {city}"

    engine = talking_engine(CALL, "It is sunny.")
    async with AsyncAnthropic(base_url=serve(engine).url, api_key="local") as client:
        runner = client.beta.messages.tool_runner(**ASK | {"tools": [get_weather]})
        last = await runner.until_done()
    assert last.content[0].text == "It is sunny."
    assert "2 days of sun in Paris" in engine.read[1]


def test_an_explicit_thread_is_refused_or_goes_on_without(client_of: Any) -> None:
    client = client_of("First.", "Second.")
    asked = {"model": ASK["model"], "max_tokens": 100}
    question = {"role": "user", "content": "Who?"}
    with pytest.raises(anthropic.BadRequestError, match="thread"):
        client.beta.messages.thread(**asked).send(question)
    thread = client.beta.messages.thread(
        **asked, unsupported_request_behavior="continue_unthreaded"
    )
    assert thread.send(question).content[0].text == "First."
    assert thread.send({"role": "user", "content": "And?"}).content[0].text == "Second."


def test_the_clients_memory_is_kept_by_the_model(
    serve: Any, talking_engine: Any, tmp_path: Path
) -> None:
    """A tool that the API defines: the client sends no schema, and runs what the model asks for."""
    create = {"command": "create", "path": "/memories/note.txt", "file_text": "Paris is sunny.\n"}
    view = {"command": "view", "path": "/memories/note.txt"}
    calls = [
        f'<tool_call>\n{{"name": "memory", "arguments": {json.dumps(each)}}}\n</tool_call>'
        for each in (create, view)
    ]
    engine = talking_engine(*calls, "I remember.")
    memory = BetaLocalFilesystemMemoryTool(base_path=str(tmp_path))
    with Anthropic(base_url=serve(engine).url, api_key="local") as client:
        last = client.beta.messages.tool_runner(**ASK | {"tools": [memory]}).until_done()
    assert last.content[0].text == "I remember."
    assert (tmp_path / "memories" / "note.txt").read_text() == "Paris is sunny.\n"
    assert engine.read[2].count("Paris is sunny.") == 2
