"""Chat completions are asked for the same, and read wherever their bytes were cut."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from senryu.benches.asks import Ask, Form
from senryu.benches.client.openai import OPENAI, ChatReading, Unsayable, translated
from senryu.benches.client.sample import Failure, Usage


def chunk(reason: str | None = None, /, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(data)}\n\n".encode()


def counted(read: int, written: int, **details: Any) -> bytes:
    usage = {"prompt_tokens": read, "completion_tokens": written, **details}
    return f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()


def call(arguments: str | None, index: int = 0, **more: Any) -> bytes:
    function = {"name": None, "arguments": arguments} | more
    return chunk(tool_calls=[{"index": index, "function": function}])


DONE = b"data: [DONE]\n\n"
ANSWER = (
    chunk(role="assistant", content=""),
    chunk(reasoning="so"),
    chunk(reasoning_content=" far"),
    chunk(content="Four"),
    chunk(content=" score"),
    call("", name="find"),
    call('{"a": "'),
    call('ü"}'),
    chunk("tool_calls"),
    counted(97, 12, prompt_tokens_details={"cached_tokens": 90}),
    DONE,
)


def read(*pieces: bytes, form: Form | None = None) -> ChatReading:
    """Each piece comes a second after the one before it."""
    reading = ChatReading(form)
    for at, piece in enumerate(pieces, 1):
        reading.feed(piece, float(at))
    return reading


def what(reading: ChatReading) -> tuple[Any, ...]:
    """All that is read, but the times."""
    pieces = 0 if reading.first_token is None else len(reading.gaps) + 1
    return pieces, reading.usage, reading.stop_reason, reading.failure, reading.over


def failure(*pieces: bytes, form: Form | None = None) -> Failure:
    found = read(*pieces, form=form).failure
    assert found is not None
    return found


def test_an_answer_is_read_with_its_times() -> None:
    """Usage is told in the words of the Messages API: what was found in a cache is counted by
    itself."""
    reading = read(*ANSWER)
    assert (reading.first_token, reading.last_token) == (2.0, 8.0)
    assert list(reading.gaps) == [1.0, 1.0, 1.0, 2.0, 1.0]
    assert reading.usage == Usage(input=7, output=12, cache_read=90)
    assert reading.stop_reason == "tool_use"
    assert (reading.over, reading.failure, reading.ended) == (True, None, 11.0)


@pytest.mark.parametrize("form", [None, "call", "json"])
def test_one_cut_changes_nothing_wherever_it_is(form: Form | None) -> None:
    stream = b"".join(ANSWER)
    whole = what(read(stream, form=form))
    for cut in range(len(stream)):
        assert what(read(stream[:cut], stream[cut:], form=form)) == whole


@pytest.mark.parametrize(
    ("reason", "known"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("odd", "odd")],
)
def test_the_reason_of_an_end_is_told_in_the_words_of_the_messages_api(
    reason: str, known: str
) -> None:
    assert read(chunk(reason, content="a"), DONE).stop_reason == known


def test_usage_may_come_with_every_chunk_or_never() -> None:
    usage = counted(5, 1).replace(b'"choices": []', b'"choices": [{"delta": {"content": "a"}}]')
    assert read(usage, usage.replace(b": 1}", b": 2}")).usage == Usage(input=5, output=2)
    assert read(chunk("stop", content="a"), DONE).usage is None
    assert read(b'data: {"choices": [], "usage": null}\n\n').usage is None


@pytest.mark.parametrize(
    ("stream", "kind", "text"),
    [
        (b'data: {"error": {"message": "Full", "type": "B", "code": 5}}\n\n', "failed", "B: Full"),
        (b'data: {"object": "error", "message": "Full"}\n\n', "failed", "Full"),
        (b'event: error\ndata: {"detail": "Full"}\n\n', "failed", "Full"),
        (b"data: <html>\n\n", "garbled", "the data of an event is no JSON object: <html>"),
        (chunk(content="a") + DONE, "cut off", "the stream ended without a finish_reason"),
    ],
)
def test_what_goes_wrong_is_told(stream: bytes, kind: str, text: str) -> None:
    assert failure(stream) == Failure(kind=kind, text=text)  # type: ignore[arg-type]


def test_a_stream_without_its_mark_of_the_end_is_cut_off() -> None:
    reading = read(chunk("stop", content="a"))
    reading.close(3.0)
    assert reading.failure is not None
    assert reading.failure.kind == "cut off"


def test_members_of_other_types_than_they_should_be_break_nothing() -> None:
    odd: list[Any] = [None, 7, "a", [], {}, True, [[]], [{}]]
    for value in odd:
        written = json.dumps(value).encode()
        for shape in (
            b'{"choices": %b}',
            b'{"choices": [%b]}',
            b'{"choices": [{"delta": %b, "finish_reason": %b}]}',
            b'{"choices": [{"delta": {"tool_calls": %b}}]}',
            b'{"choices": [{"delta": {"tool_calls": [%b]}}]}',
            b'{"choices": [{"delta": {"tool_calls": [{"index": %b, "function": %b}]}}]}',
            b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": %b}}]}}]}',
            b'{"usage": %b}',
            b'{"error": %b}',
        ):
            read(b"data: " + shape.replace(b"%b", written) + b"\n\n", form="call")


def test_forms_are_judged() -> None:
    end = chunk("stop") + DONE
    assert read(b"".join(ANSWER), form="call").failure is None
    assert read(call(None, name="find"), end, form="call").failure is None
    assert failure(call("[]"), end, form="call").kind == "malformed"
    assert failure(chunk(content="{}"), end, form="call").kind == "malformed"
    assert failure(call("{}"), call("{", index=1), end, form="call").kind == "malformed"
    assert read(chunk(content='{"a"'), chunk(content=": 1}"), end, form="json").failure is None
    assert failure(chunk(content="a"), end, form="json").kind == "malformed"


def test_a_whole_body_is_translated() -> None:
    tool = {"name": "find", "description": "finds", "input_schema": {"type": "object"}}
    picture = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    body = {
        "max_tokens": 9,
        "temperature": 0.5,
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "tools": [tool | {"cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
        },
        "messages": [
            {"role": "user", "content": "Find it."},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Well."},
                    {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": "ü"}},
                    {"type": "tool_use", "id": "t2", "name": "find", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "here"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "!"}],
                    },
                    {"type": "text", "text": "Go on."},
                    {"type": "image", "source": picture},
                ],
            },
        ],
    }
    function = {
        "name": "find",
        "description": "finds",
        "parameters": {"type": "object"},
    }
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert translated(body) == {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Find it."},
            {
                "role": "assistant",
                "content": "Well.",
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "find", "arguments": '{"a":"ü"}'},
                    },
                    {
                        "id": "t2",
                        "type": "function",
                        "function": {"name": "find", "arguments": "{}"},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "here"},
            {"role": "tool", "tool_call_id": "t2", "content": "no\n!"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Go on."},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
        ],
    }


def test_a_turn_of_one_text_is_a_string_and_one_of_calls_alone_has_none() -> None:
    said = [{"type": "text", "text": "a"}]
    called = [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]
    result = [{"type": "tool_result", "tool_use_id": "t"}]
    messages = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": called},
        {"role": "user", "content": result},
    ]
    first, second, third = translated({"messages": messages})["messages"]
    assert first["content"] == "a"
    assert second["content"] is None
    assert third == {"role": "tool", "tool_call_id": "t", "content": ""}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools_is_translated(choice: Any, said: Any) -> None:
    assert translated({"messages": [], "tool_choice": choice})["tool_choice"] == said


THOUGHT = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}
SEEN = {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}


@pytest.mark.parametrize(
    "body",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tool_choice": {"type": "sometimes"}},
        {"output_config": {"format": {"type": "xml"}}},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"mcp_servers": []},
        {"system": [{"type": "image"}]},
        {"messages": [THOUGHT]},
        {"messages": [SEEN]},
        {"messages": [{"role": "user", "content": [{"text": "a block of no type"}]}]},
        {"messages": ["no message"]},
    ],
)
def test_what_has_no_word_there_is_refused_with_one_sentence(
    body: dict[str, Any], ask: Callable[..., Ask]
) -> None:
    with pytest.raises(Unsayable, match=r"chat completions|none of the Messages API"):
        OPENAI.body(ask(**body), "m")


def test_a_request_names_its_model_and_shows_its_key(ask: Callable[..., Ask]) -> None:
    assert json.loads(OPENAI.body(ask(), "m"))["model"] == "m"
    assert dict(OPENAI.headers("k"))["authorization"] == "Bearer k"
    assert "authorization" not in dict(OPENAI.headers(""))
    assert isinstance(OPENAI.reader(ask()), ChatReading)
