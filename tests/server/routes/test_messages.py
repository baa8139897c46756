"""Messages and their counts: answers, errors before the first byte, and errors after it."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from senryu.server import answering
from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineGone, PromptRefused, TokenEvent
from senryu.server.engine.scripted import POEM, ScriptedEngine
from senryu.server.turn.prompt import Prompt

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]


def events(reply: httpx.Response) -> list[Any]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in reply.text.split("\n")
        if line.startswith("data: ")
    ]


async def test_an_answer_is_a_whole_message(client: httpx.AsyncClient, body: Body) -> None:
    reply = await client.post("/v1/messages", json=body)
    message = reply.json()
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert message["id"].startswith("msg_01")
    assert message["content"] == [{"type": "text", "text": POEM, "citations": None}]
    assert (message["stop_reason"], message["model"]) == ("end_turn", "scripted")
    assert message["usage"]["output_tokens"] == len(POEM.split())


async def test_a_stream_has_its_headers_and_ends_with_message_stop(
    client: httpx.AsyncClient, body: Body
) -> None:
    reply = await client.post("/v1/messages", json=body | {"stream": True})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in reply.headers
    told = events(reply)
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")


CONVERSATIONS = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant"]),
                    "content": st.text(min_size=1, max_size=10).map(lambda text: text + "."),
                }
            ),
            max_size=4,
        ).map(lambda turns: [{"role": "user", "content": "hi"}, *turns])
    },
    optional={"system": st.text(max_size=10)},
)


@given(asked=CONVERSATIONS, max_tokens=st.integers(0, 20))
@hypothesis_settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_the_count_is_the_usage_of_the_same_request_streamed_or_not(
    asked: Body, max_tokens: int, client: httpx.AsyncClient
) -> None:
    asked = asked | {"model": "scripted"}
    count = (await client.post("/v1/messages/count_tokens", json=asked)).json()
    asked |= {"max_tokens": max_tokens}
    usage = (await client.post("/v1/messages", json=asked)).json()["usage"]
    assert count == {"input_tokens": usage["input_tokens"]}
    assert usage["cache_creation_input_tokens"] == usage["cache_read_input_tokens"] == 0
    assert usage["output_tokens"] <= max_tokens
    if max_tokens:
        told = events(await client.post("/v1/messages", json=asked | {"stream": True}))
        assert told[0]["message"]["usage"]["input_tokens"] == usage["input_tokens"]
        (delta,) = [event for event in told if event["type"] == "message_delta"]
        assert delta["usage"] == usage


async def test_a_count_tolerates_the_body_of_a_message(
    client: httpx.AsyncClient, body: Body
) -> None:
    plain = {name: body[name] for name in ("model", "messages")}
    counts = [
        (await client.post("/v1/messages/count_tokens", json=each)).json()
        for each in (plain, body, body | {"stream": True})
    ]
    assert counts[0] == counts[1] == counts[2]


async def test_an_answer_continues_what_the_client_began(
    client: httpx.AsyncClient, body: Body
) -> None:
    """And holds only the continuation."""
    body["messages"].append({"role": "assistant", "content": "The model"})
    message = (await client.post("/v1/messages", json=body)).json()
    assert message["content"][0]["text"] == POEM


async def test_nothing_is_written_when_nothing_was_asked_for(
    client: httpx.AsyncClient, body: Body
) -> None:
    message = (await client.post("/v1/messages", json=body | {"max_tokens": 0})).json()
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")
    assert message["usage"]["output_tokens"] == 0
    assert message["usage"]["input_tokens"] > 0


async def test_diagnostics_are_answered_when_they_are_asked_for(
    client: httpx.AsyncClient, body: Body
) -> None:
    asked = body | {"diagnostics": {"previous_message_id": None}}
    first = (await client.post("/v1/messages", json=asked)).json()
    assert first["diagnostics"] is None  # there is nothing to compare
    unknown = body | {"diagnostics": {"previous_message_id": "msg_unknown"}, "stream": True}
    told = events(await client.post("/v1/messages", json=unknown))
    expected = {"cache_miss_reason": {"type": "previous_message_not_found"}}
    assert told[0]["message"]["diagnostics"] == expected
    changed = body | {"system": "New.", "diagnostics": {"previous_message_id": first["id"]}}
    reason = (await client.post("/v1/messages", json=changed)).json()["diagnostics"]
    assert reason["cache_miss_reason"]["type"] == "system_changed"
    assert reason["cache_miss_reason"]["cache_missed_input_tokens"] > 0


# --- errors before the first byte --------------------------------------------------------------


async def prompt_tokens(client: httpx.AsyncClient, body: Body) -> int:
    reply = await client.post("/v1/messages/count_tokens", json=body)
    count: int = reply.json()["input_tokens"]
    return count


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_window_is_refused_in_the_exact_words(
    stream: bool, client_for: ClientFor, body: Body
) -> None:
    """Claude Code compacts its history on this sentence; a count is still given."""
    client = client_for(ScriptedEngine(window=20))
    count = await prompt_tokens(client, body)
    reply = await client.post("/v1/messages", json=body | {"max_tokens": 1, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "type": "invalid_request_error",
        "message": f"prompt is too long: {count} tokens > 20 maximum",
    }


@pytest.mark.parametrize(("room", "said"), [(0, ""), (2, "The model ")])
async def test_a_prompt_that_just_fits_is_answered_as_far_as_there_is_room(
    room: int, said: str, client_for: ClientFor, client: httpx.AsyncClient, body: Body
) -> None:
    window = await prompt_tokens(client, body) + room
    small = client_for(ScriptedEngine(window=window))
    message = (await small.post("/v1/messages", json=body | {"max_tokens": window})).json()
    assert "".join(block["text"] for block in message["content"]) == said
    assert message["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_more_tokens_than_the_model_may_write_are_refused(
    stream: bool, client_for: ClientFor, body: Body
) -> None:
    client = client_for(ScriptedEngine(window=100))
    reply = await client.post("/v1/messages", json=body | {"max_tokens": 101, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == (
        "max_tokens: 101 > 100, which is the maximum allowed number of output tokens for scripted"
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_thread_is_refused_so_that_the_tool_runner_goes_on_without(
    path: str, stream: bool, client: httpx.AsyncClient, body: Body
) -> None:
    asked = body | {"thread": {"type": "create"}, "stream": stream, "max_tokens": 10**9}
    reply = await client.post(path, json=asked)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


async def test_a_template_that_refuses_is_a_400_with_its_words(
    client_for: ClientFor, body: Body
) -> None:
    engine = ScriptedEngine()

    def render(messages: Any, prefill: str = "") -> str:
        raise ValueError("the model's chat template refuses this: no")

    engine.tokenizer.render = render  # type: ignore[method-assign]
    reply = await client_for(engine).post("/v1/messages", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == (
        "messages: the model's chat template refuses this: no"
    )


async def test_a_long_prompt_is_counted_like_a_short_one(
    client: httpx.AsyncClient, body: Body
) -> None:
    """Over 16 KiB the prompt is made in a thread."""
    short = await prompt_tokens(client, body)
    body["messages"][0]["content"] += "x" * 20_000
    assert await prompt_tokens(client, body) == short + 20_000


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("text", "kind", "thread"),
    [
        ("x" * 10, "text", "MainThread"),
        ("é\n" * 10, "text", "MainThread"),
        ("x" * 20_000, "text", "asyncio"),
        ("x" * 10, "document", "media"),
        ("x" * 20_000, "document", "media"),
    ],
    ids=["short", "escaped", "long", "document", "long document"],
)
@pytest.mark.parametrize("key", ['"source"', '"s\\u006furce"', '"\\u0073o\\u0075\\u0072c\\u0065"'])
async def test_a_long_request_is_read_beside_the_loop_from_its_json_to_its_tokens(
    text: str,
    kind: str,
    thread: str,
    key: str,
    path: str,
    client_for: ClientFor,
    body: Body,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one client's megabytes hold up every other client's tokens."""
    threads = []

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **named: Any) -> Any:
            threads.append(threading.current_thread())
            return work(*args, **named)

        return wrapper

    for name in ("parse", "read_request", "build_prompt"):
        monkeypatch.setattr(answering, name, watched(getattr(answering, name)))
    document = {"source": {"type": "text", "media_type": "text/plain", "data": text}}
    content = {"text": text} if kind == "text" else document
    body["messages"][0]["content"] = [{"type": kind, **content}]
    content = json.dumps(body).replace('"source"', key)
    assert (await client_for().post(path, content=content)).status_code == 200
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0].name.startswith(thread)


async def test_a_text_does_not_wait_for_the_media_of_others(
    client: httpx.AsyncClient, body: Body
) -> None:
    """However many PDFs there are: one may take a minute."""
    done = threading.Event()
    reading = [answering._MEDIA_THREADS.submit(done.wait, 30) for _ in range(20)]
    try:
        document = {"type": "text", "media_type": "text/plain", "data": "x"}
        content = [{"type": "document", "source": document}]
        with_media = body | {"messages": [{"role": "user", "content": content}]}
        waiting = asyncio.create_task(client.post("/v1/messages", json=with_media))
        body["messages"][0]["content"] += "x" * 20_000
        reply = await asyncio.wait_for(client.post("/v1/messages", json=body), 10)
        assert reply.status_code == 200
        assert not waiting.done()
    finally:
        done.set()
    assert (await waiting).status_code == 200
    assert all(future.result() for future in reading)


@pytest.mark.parametrize("edits", [[], [{"type": "clear_thinking_20251015", "keep": "all"}]])
async def test_edits_without_effect_are_answered_as_applied_to_nothing(
    edits: list[Any], client: httpx.AsyncClient, body: Body
) -> None:
    asked = body | {"context_management": {"edits": edits}}
    expected = {"applied_edits": []}
    assert (await client.post("/v1/messages", json=asked)).json()["context_management"] == expected
    told = events(await client.post("/v1/messages", json=asked | {"stream": True}))
    (delta,) = [event for event in told if event["type"] == "message_delta"]
    assert delta["context_management"] == expected
    count = (await client.post("/v1/messages/count_tokens", json=asked)).json()
    assert count == {
        "input_tokens": await prompt_tokens(client, body),
        "context_management": {"original_input_tokens": count["input_tokens"]},
    }


# --- errors after the first byte ---------------------------------------------------------------


async def test_an_engine_that_fails_is_a_500_when_nothing_was_sent(
    client_for: ClientFor, body: Body, breaking_engine: Callable[..., ScriptedEngine]
) -> None:
    engine = breaking_engine(POEM, before=3)
    reply = await client_for(engine).post("/v1/messages", json=body)
    assert reply.status_code == 500
    assert reply.json()["error"] == {
        "type": "api_error",
        "message": "The engine failed on this request; try it again",
    }
    assert not engine.active


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "The engine failed on this request; try it again"),
        (RuntimeError("secret"), "Internal server error"),
    ],
)
async def test_an_engine_that_fails_in_a_stream_ends_it_with_an_error_event(
    error: Exception | None,
    message: str,
    client_for: ClientFor,
    body: Body,
    breaking_engine: Callable[..., ScriptedEngine],
) -> None:
    engine = breaking_engine(POEM, before=2, error=error)
    reply = await client_for(engine).post("/v1/messages", json=body | {"stream": True})
    assert reply.status_code == 200
    told = events(reply)
    assert [event["type"] for event in told] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "error",
    ]
    assert told[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": message},
        "request_id": reply.headers["request-id"],
    }
    assert not engine.active


async def test_a_prompt_that_the_engine_refuses_is_the_clients_mistake(
    client_for: ClientFor, body: Body, breaking_engine: Callable[..., ScriptedEngine]
) -> None:
    engine = breaking_engine(POEM, before=0, error=PromptRefused("The engine refuses this: x"))
    expected = {"type": "invalid_request_error", "message": "The engine refuses this: x"}
    reply = await client_for(engine).post("/v1/messages", json=body)
    assert (reply.status_code, reply.json()["error"]) == (400, expected)
    told = events(await client_for(engine).post("/v1/messages", json=body | {"stream": True}))
    assert [event["type"] for event in told] == ["message_start", "error"]
    assert told[1]["error"] == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_down_is_a_status_and_no_stream(
    stream: bool, client_for: ClientFor, body: Body
) -> None:
    class Down(ScriptedEngine):
        async def healthy(self) -> bool:
            return False

        async def generate(
            self, prompt: Prompt, sampling: Sampling, request_id: str
        ) -> AsyncGenerator[TokenEvent, None]:
            raise EngineGone
            yield

    reply = await client_for(Down()).post("/v1/messages", json=body | {"stream": stream})
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "api_error")
