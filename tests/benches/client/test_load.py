"""Every request that is sent becomes a sample, whatever the server does to it."""

import asyncio
import gzip
import json
import statistics
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from senryu.benches.asks import Ask
from senryu.benches.client.load import (
    Target,
    Unreachable,
    closed_loop,
    count,
    first_model,
    open_loop,
    run,
    schedule,
)
from senryu.benches.client.messages import MESSAGES
from senryu.benches.client.openai import OPENAI, Unsayable
from senryu.benches.client.sample import Failure, Sample, Usage
from senryu.server.engine.scripted import ScriptedEngine

Telling = Callable[..., Awaitable[Any]]
Asking = Callable[..., Ask]

HANG_UP, RESET, WAIT = "hang up", "reset", "wait"
BEGUN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5}}}'
    b'\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
)
ENDED = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":2}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"Oh"}}\n\n'


def reply(
    body: bytes, status: str = "200 OK", kind: str = "text/event-stream", **more: str
) -> bytes:
    headers = {"content-type": kind, "content-length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = reply(BEGUN + ENDED)


def to(url: str, **more: Any) -> Target:
    return Target(**{"url": url, "api": MESSAGES, "model": "scripted", "key": "k", **more})


async def sampled(told: Any, ask: Ask, **more: Any) -> Sample:
    (sample,) = await closed_loop(to(told.url, **more), [(ask,)], concurrency=1)
    assert sample.due <= sample.sent <= sample.ended
    return sample


async def failed(told: Any, ask: Ask, **more: Any) -> Failure:
    failure = (await sampled(told, ask, **more)).failure
    assert failure is not None
    return failure


async def test_a_good_answer(telling: Telling, ask: Asking) -> None:
    told = await telling(GOOD)
    sample = await sampled(told, ask(counted=5))
    assert sample.failure is None
    assert sample.usage == Usage(input=5, output=2)
    assert (sample.stop_reason, sample.asked_tokens, sample.counted) == ("end_turn", 9, 5)
    assert sample.first_token is not None
    assert sample.sent <= sample.first_token <= sample.ended
    ((first, headers, body),) = told.requests
    assert first == "POST /v1/messages HTTP/1.1"
    assert (headers["x-api-key"], headers["accept-encoding"]) == ("k", "identity")
    assert json.loads(body)["model"] == "scripted"


PAGE = b"<html>\n <body>Bad\n gateway</body></html>"
SAID = b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}'


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        (
            reply(SAID, "529 Overloaded", "application/json", retry_after="7"),
            Failure(kind="refused", text="overloaded_error: Busy", status=529, retry_after=7.0),
        ),
        (
            reply(b'{"error":"Slow down"}', "429 Too Many", retry_after="0.5"),
            Failure(kind="refused", text="Slow down", status=429, retry_after=0.5),
        ),
        (
            reply(b'{"detail":"No"}', "403 Forbidden", retry_after="soon"),
            Failure(kind="refused", text="No", status=403),
        ),
        (
            reply(PAGE, "502 Bad Gateway", "text/html", retry_after="-1"),
            Failure(kind="refused", text="<html> <body>Bad gateway</body></html>", status=502),
        ),
        (
            reply(b"", "500 Oh", "application/json", retry_after="nan"),
            Failure(kind="refused", text="it says nothing", status=500),
        ),
        (
            reply(b"", "307 Elsewhere", location="http://b.test/"),
            Failure(kind="refused", text="it sends on to 'http://b.test/'", status=307),
        ),
        (
            reply(gzip.compress(SAID), "400 Bad", content_encoding="gzip"),
            Failure(
                kind="refused",
                text="its words are compressed, though they were asked not to be",
                status=400,
            ),
        ),
        (
            (reply(SAID, "500 Oh", content_length="900"), HANG_UP),
            Failure(kind="refused", text="overloaded_error: Busy", status=500),
        ),
        (
            b"HTTP/1.1 204 Nothing\r\n\r\n",
            Failure(kind="refused", text="it says nothing", status=204),
        ),
        (
            reply(gzip.compress(BEGUN + ENDED), content_encoding="gzip"),
            Failure(
                kind="garbled",
                text="the reply is no event stream, but compressed, though it was asked not to be",
                status=200,
            ),
        ),
        (
            reply(b'{"id": 7}', kind="application/json"),
            Failure(
                kind="garbled",
                text="the reply is no event stream, but 'application/json': {\"id\": 7}",
                status=200,
            ),
        ),
        (
            reply(b"data: nothing\n\n"),
            Failure(kind="garbled", text="the data of an event is no JSON object: nothing"),
        ),
        (reply(BEGUN + ERROR), Failure(kind="failed", text="api_error: Oh")),
        (
            reply(BEGUN),
            Failure(kind="cut off", text="the stream ended, and the answer had not"),
        ),
        (
            (reply(BEGUN, content_length="900"), HANG_UP),
            Failure(kind="cut off", text="the connection closed within the reply"),
        ),
        (
            (b"nothing\r\n\r\n", HANG_UP),
            Failure(kind="garbled", text="what came is no HTTP: Expected HTTP/, RTSP/ or ICE/"),
        ),
    ],
)
async def test_what_a_bad_server_does_is_told(
    telling: Telling, ask: Asking, told: Any, failure: Failure
) -> None:
    assert await failed(await telling(told), ask()) == failure


async def test_what_came_before_a_failure_is_told_with_it(telling: Telling, ask: Asking) -> None:
    sample = await sampled(await telling((reply(BEGUN, content_length="900"), RESET)), ask())
    assert sample.failure is not None
    assert sample.failure.kind == "cut off"
    assert sample.first_token is not None
    sample = await sampled(await telling(GOOD), ask(form="json"))
    assert sample.failure is not None
    assert sample.failure.kind == "malformed"
    assert sample.usage == Usage(input=5, output=2)


async def test_a_stall_is_silence_before_the_stream_and_in_it(
    telling: Telling, ask: Asking
) -> None:
    assert (await failed(await telling((WAIT,)), ask(), patience=0.5)).kind == "silent"
    stalls = await telling((reply(BEGUN, content_length="900"), WAIT))
    sample = await sampled(stalls, ask(), patience=0.5)
    assert sample.failure is not None
    assert sample.failure.kind == "silent"


async def test_a_date_says_when_to_come_again(telling: Telling, ask: Asking) -> None:
    for hours, seconds in ((1, 3600), (-1, 0)):
        again = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
        failure = await failed(await telling(reply(b"", "503 No", retry_after=again)), ask())
        assert failure.retry_after == pytest.approx(seconds, abs=300)


async def test_nobody_is_there(telling: Telling, ask: Asking) -> None:
    for url in ("http://127.0.0.1:1", "http://no-such-host.test"):
        samples = await closed_loop(to(url), [(ask(), ask())] * 5, concurrency=2)
        assert [each.failure and each.failure.kind for each in samples] == ["unreachable"] * 5


async def test_a_closed_loop_keeps_its_width_and_its_order(telling: Telling, ask: Asking) -> None:
    told = await telling(GOOD)
    conversations = [(ask(temperature=n), ask(temperature=n)) for n in range(6)]
    heard: list[Sample] = []
    samples = await closed_loop(to(told.url), conversations, concurrency=3, heard=heard.append)
    assert samples == heard
    assert len(samples) == 12
    assert told.connections == 3
    sent = [json.loads(body)["temperature"] for _, _, body in told.requests]
    assert set(sent[:3]) == {0, 1, 2}
    assert all(sample.late == 0.0 for sample in samples)
    alone = await telling(GOOD)
    await closed_loop(to(alone.url), conversations, concurrency=1)
    sent = [json.loads(body)["temperature"] for _, _, body in alone.requests]
    assert sent == sorted([*range(6), *range(6)])
    assert alone.connections == 1


async def test_nothing_asked_is_nothing_heard(ask: Asking) -> None:
    assert await closed_loop(to("http://127.0.0.1:1"), [], concurrency=4) == []
    assert await open_loop(to("http://127.0.0.1:1"), [], rate=1.0, seed=0) == []
    assert await closed_loop(to("http://127.0.0.1:1"), [()], concurrency=4) == []
    assert await open_loop(to("http://127.0.0.1:1"), [()], rate=100.0, seed=0) == []


async def test_a_failure_ends_its_conversation_and_a_wrong_form_does_not(
    telling: Telling, ask: Asking
) -> None:
    told = await telling(reply(SAID, "529 Overloaded"), GOOD)
    samples = await closed_loop(to(told.url), [(ask(), ask()), (ask(),)], concurrency=1)
    assert [sample.failure is None for sample in samples] == [False, True]
    told = await telling(GOOD)
    form = [(ask(form="call"), ask())]
    samples = await closed_loop(to(told.url), form, concurrency=1)
    assert [sample.failure is None for sample in samples] == [False, True]


def test_a_schedule_is_drawn_before_and_again_the_same() -> None:
    times = schedule(4000, rate=50.0, seed=7)
    assert times == schedule(4000, rate=50.0, seed=7) != schedule(4000, rate=50.0, seed=8)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *times])]
    assert min(gaps) >= 0.0
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # as a Poisson process has it


async def test_an_open_loop_waits_for_no_answer(telling: Telling, ask: Asking) -> None:
    """All are begun before the first is answered; and each waited from when it was due."""
    told = await telling((WAIT,))
    loop = open_loop(to(told.url), [(ask(),)] * 8, rate=1000.0, seed=1)
    waiting = asyncio.create_task(loop)
    while len(told.requests) < 8:  # noqa: ASYNC110 - the server sets no event
        await asyncio.sleep(0.001)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as stopped:
        await waiting
    assert stopped.value.args == (8,)


async def test_an_open_loop_keeps_its_times_and_tells_its_own_delay(
    telling: Telling, ask: Asking
) -> None:
    told = await telling(GOOD)
    samples = await open_loop(to(told.url), [(ask(), ask())] * 10, rate=200.0, seed=3)
    due = sorted(sample.due for sample in samples)
    assert len(samples) == 20
    assert all(sample.failure is None for sample in samples)
    assert all(0.0 <= sample.late <= sample.sent - sample.due for sample in samples)
    # Those that begin a conversation are due when the schedule says.
    planned = schedule(10, rate=200.0, seed=3)
    first = due[0] - planned[0]
    for time in planned:
        assert any(abs(each - first - time) < 1e-6 for each in due)


@pytest.mark.parametrize("open_", [False, True])
async def test_who_stops_keeps_what_was_heard(telling: Telling, ask: Asking, open_: bool) -> None:
    told = await telling(GOOD, GOOD, GOOD, (reply(BEGUN, content_length="900"), WAIT))
    heard: list[Sample] = []
    enough = asyncio.Event()

    def hear(sample: Sample) -> None:
        heard.append(sample)
        if len(heard) == 3:
            enough.set()

    conversations = [(ask(),)] * 6
    loop = (
        open_loop(to(told.url), conversations, rate=200.0, seed=0, heard=hear)
        if open_
        else closed_loop(to(told.url), conversations, concurrency=2, heard=hear)
    )
    running = asyncio.create_task(loop)
    await enough.wait()
    while len(told.requests) < 5:  # noqa: ASYNC110 - the server sets no event
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as stopped:
        await running
    assert len(heard) == 3
    assert stopped.value.args[0] >= 2
    while told.ended < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_what_cannot_be_asked_is_told_before_anything_is_sent(
    telling: Telling, ask: Asking
) -> None:
    told = await telling(GOOD)
    odd = [(ask(),), (ask(mcp_servers=[]),)]
    with pytest.raises(Unsayable, match="mcp_servers"):
        await closed_loop(to(told.url, api=OPENAI), odd, concurrency=1)
    with pytest.raises(ValueError, match="is no address"):
        await closed_loop(to("nowhere"), odd, concurrency=1)
    with pytest.raises(ValueError, match="no JSON"):
        await closed_loop(to(told.url), [(ask(top_k=2**70),)], concurrency=1)
    with pytest.raises(ValueError, match="x-api-key"):
        await closed_loop(to(told.url, key="a\nb"), odd, concurrency=1)
    assert told.requests == []


async def test_chat_completions_are_asked_at_their_own_path(telling: Telling, ask: Asking) -> None:
    chunks = (
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"b"},"finish_reason":"length"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
        b"data: [DONE]\n\n"
    )
    told = await telling(reply(chunks))
    told.url += "/v1"
    sample = await sampled(told, ask(), api=OPENAI)
    assert sample.failure is None
    assert (sample.usage, sample.stop_reason) == (Usage(input=5, output=2), "max_tokens")
    assert told.requests[0][0] == "POST /v1/chat/completions HTTP/1.1"


async def test_the_first_model_is_asked_for(telling: Telling) -> None:
    told = await telling(reply(b'{"data":[{"id":"a"},{"id":"b"}]}', kind="application/json"))
    assert await first_model(told.url, "k") == "a"
    first, headers, _ = told.requests[0]
    assert first == "GET /v1/models HTTP/1.1"
    assert (headers["x-api-key"], headers["authorization"]) == ("k", "Bearer k")


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ((HANG_UP,), "without a reply"),
        (reply(SAID, "401 No"), "answers 401: overloaded_error: Busy"),
        (reply(b'{"data":[]}'), "names no model"),
        (reply(b"[]"), "names no model"),
        (reply(PAGE), "names no model: <html>"),
    ],
)
async def test_who_names_no_model_cannot_be_asked(telling: Telling, told: Any, text: str) -> None:
    server = await telling(told)
    with pytest.raises(Unreachable, match=text):
        await first_model(server.url)


async def test_where_there_is_no_address_there_is_no_model() -> None:
    with pytest.raises(Unreachable, match="is no address"):
        await first_model("nowhere")


async def test_tokens_are_counted_where_the_server_can(telling: Telling, ask: Asking) -> None:
    told = await telling(reply(b'{"input_tokens":5}', kind="application/json"))
    assert await count(to(told.url), ask(temperature=0, system="s").body) == 5
    first, _, body = told.requests[0]
    assert first == "POST /v1/messages/count_tokens HTTP/1.1"
    assert json.loads(body).keys() == {"model", "system", "messages"}  # it refuses what it ignores
    for other in (reply(b"", "404 No"), reply(b"[]"), reply(PAGE), (HANG_UP,)):
        assert await count(to((await telling(other)).url), ask().body) is None
    assert await count(to((await telling(reply(b'{"input_tokens":"5"}'))).url), {}) is None


# --- our own server, in the loop that is used ----------------------------------------------------


def test_our_server_is_measured(serve: Callable[..., Any], ask: Asking) -> None:
    server = serve(ScriptedEngine(tokens=300), api_key="k")
    target = to(server.url)

    async def load() -> tuple[list[Sample], list[Sample], int | None, str]:
        conversations = [(ask(max_tokens=200), ask(max_tokens=1000))] * 8
        closed = await closed_loop(target, conversations, concurrency=4)
        opened = await open_loop(target, conversations, rate=200.0, seed=0)
        counted = await count(target, ask().body)
        return closed, opened, counted, await first_model(server.url, "k")

    closed, opened, counted, model = run(load())
    assert model == "scripted"
    for samples in (closed, opened):
        assert len(samples) == 16
        assert {sample.stop_reason for sample in samples} == {"max_tokens", "end_turn"}
        for sample in samples:
            assert sample.failure is None
            assert sample.usage is not None
            assert sample.usage.prompt == counted
            assert sample.usage.output == sample.pieces == min(sample.asked_tokens, 300)


def test_our_server_refuses_a_wrong_key(serve: Callable[..., Any], ask: Asking) -> None:
    server = serve(api_key="k")
    (sample,) = run(closed_loop(to(server.url, key="x"), [(ask(),)], concurrency=1))
    assert sample.failure is not None
    assert (sample.failure.kind, sample.failure.status) == ("refused", 401)


def test_our_server_breaks_in_the_stream(
    serve: Callable[..., Any], breaking_engine: type[Any], ask: Asking
) -> None:
    server = serve(breaking_engine("one two three", before=2))
    (sample,) = run(closed_loop(to(server.url), [(ask(),)], concurrency=1))
    assert sample.failure is not None
    assert sample.failure.kind == "failed"
    assert sample.first_token is not None


CALL = '<tool_call>\n{"name": "find", "arguments": {"a": "b"}}\n</tool_call>'


def test_forms_of_our_server_are_judged(serve: Callable[..., Any], ask: Asking) -> None:
    tools = [{"name": "find", "input_schema": {"type": "object"}}]
    called = [(ask(form="call", tools=tools, max_tokens=100),)]
    for says, good in ((CALL, True), ("No.", False)):
        (sample,) = run(closed_loop(to(serve(ScriptedEngine(says)).url), called, concurrency=1))
        assert (sample.failure is None) == good
    written = [(ask(form="json", max_tokens=100),)]
    for says, good in (('{"a": 1}', True), ("No.", False)):
        (sample,) = run(closed_loop(to(serve(ScriptedEngine(says)).url), written, concurrency=1))
        assert (sample.failure is None) == good
