"""More requests than the engine works on: they wait in a fair queue, and who finds no room in it is
told when to come back, as the official client then does by itself."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from prometheus_client.parser import text_string_to_metric_families

from senryu.server.engine.scripted import POEM

ASK: Any = {"model": "claude-haiku-4-5", "max_tokens": 100}


def saying(text: str) -> Any:
    return {**ASK, "messages": [{"role": "user", "content": text}]}


Waits = Callable[..., tuple[Any, str]]


@pytest.fixture
def waits(serve: Any, stalling_engine: Any) -> Waits:
    """Starts a server of few seats whose answers wait until they are released."""

    def waits(*, seats: int = 1, before: int = 1, **settings: Any) -> tuple[Any, str]:
        engine = stalling_engine(POEM, before=before)
        engine.card = replace(engine.card, seats=seats)
        engine.rendered = []
        render = engine.tokenizer.render

        def watched(chat: Any, prefill: str = "") -> str:
            engine.rendered.append(chat.messages[-1]["content"])
            return str(render(chat, prefill))

        engine.tokenizer.render = watched
        return engine, serve(engine, **settings).url

    return waits


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., AsyncAnthropic]]:
    async with AsyncExitStack() as stack:

        def client_of(url: str, api_key: str = "local", max_retries: int = 0) -> AsyncAnthropic:
            client = AsyncAnthropic(base_url=url, api_key=api_key, max_retries=max_retries)
            stack.push_async_callback(client.close)
            return client

        yield client_of


async def measured(url: str, name: str, key: str = "local") -> float:
    async with httpx.AsyncClient(headers={"x-api-key": key}) as client:
        page = (await client.get(f"{url}/metrics")).text
    families = text_string_to_metric_families(page)
    [value] = [each.value for family in families for each in family.samples if each.name == name]
    return float(value)


async def until(url: str, **wanted: float) -> None:
    """Waits for numbers of /metrics."""
    async with asyncio.timeout(20):
        for name, value in wanted.items():
            while await measured(url, f"senryu_{name}") != value:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def said(client: AsyncAnthropic, text: str = "Hm.", *, stream: bool = False) -> str:
    if not stream:
        message = await client.messages.create(**saying(text))
    else:
        async with client.messages.stream(**saying(text)) as told:
            message = await told.get_final_message()
    block = message.content[0]
    assert block.type == "text"
    return block.text


# --- beyond the queue --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bound", [{"max_queued": 1}, {"max_queued_tokens": 10}])
async def test_more_than_may_wait_are_told_when_to_come_back_before_their_prompt_is_made(
    bound: dict[str, Any], stream: bool, waits: Waits, client_of: Any
) -> None:
    engine, url = waits(**bound)
    client = client_of(url)
    asking = [asyncio.create_task(said(client, "early"))]
    await until(url, active_requests=1)
    asking.append(asyncio.create_task(said(client, "early")))
    await until(url, queued_requests=1)
    with pytest.raises(anthropic.APIStatusError) as refusal:
        await said(client, "late", stream=stream)
    error = refusal.value
    assert error.status_code == 529
    assert error.type == "overloaded_error"
    assert isinstance(error.body, dict)
    assert error.body["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert re.fullmatch("[1-9][0-9]*", error.response.headers["retry-after"])
    assert engine.rendered == ["early", "early"]
    engine.released.set()
    assert await asyncio.gather(*asking) == [POEM, POEM]
    assert await said(client, "later", stream=stream) == POEM


async def test_the_official_client_comes_back_by_itself_when_there_is_room(
    waits: Waits, client_of: Any
) -> None:
    engine, url = waits(max_queued=1)
    early = [asyncio.create_task(said(client_of(url)))]
    await until(url, active_requests=1)
    early.append(asyncio.create_task(said(client_of(url))))
    await until(url, queued_requests=1)
    late = asyncio.create_task(said(client_of(url, max_retries=9), "late"))
    async with asyncio.timeout(20):
        while not await refused(url):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not late.done()
    engine.released.set()
    assert await asyncio.gather(*early, late) == [POEM] * 3


async def refused(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        return 'status="529"' in (await client.get(f"{url}/metrics")).text


async def test_who_is_turned_away_has_lost_nothing_of_its_limits(
    waits: Waits, client_of: Any
) -> None:
    """All that an answer may need is held for it, but not for one that was never to be."""
    limits = ("requests_per_minute=2", "concurrent_requests=1", "tokens_per_day=150")
    keys = ("ann=k1", "bob=k2", "cy=k3")
    engine, url = waits(api_keys=keys, api_key="admin", key_limits=limits, max_queued_tokens=70)
    ann, bob, cy = (client_of(url, key) for key in ("k1", "k2", "k3"))
    early = [asyncio.create_task(said(ann))]
    async with asyncio.timeout(20):
        while not engine.active:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        early.append(asyncio.create_task(said(bob)))
        while not await measured(url, "senryu_queued_requests", "admin"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for _ in range(3):
        with pytest.raises(anthropic.APIStatusError) as refusal:
            await said(cy, "x" * 100)
        assert refusal.value.status_code == 529
    assert "x" * 100 in engine.rendered, "it was its prompt that was too long for the queue"
    engine.released.set()
    assert await asyncio.gather(*early, said(cy)) == [POEM] * 3


# --- in the queue ------------------------------------------------------------------------------


async def test_who_asks_once_is_next_after_one_who_asks_fifty_times(
    waits: Waits, client_of: Any
) -> None:
    engine, url = waits(seats=2, api_keys=("greedy=k1", "modest=k2"), api_key="admin")
    order: list[str] = []
    generate = engine.generate

    def watched(prompt: Any, sampling: Any, request_id: str) -> Any:
        text = bytes(token for token in prompt.token_ids if token < 256).decode()
        order.append("modest" if "modest" in text else "greedy")
        return generate(prompt, sampling, request_id)

    engine.generate = watched
    greedy = client_of(url, "k1")
    asking = [asyncio.create_task(said(greedy, "greedy")) for _ in range(50)]

    async def queued(number: int) -> None:
        async with asyncio.timeout(20):
            while await measured(url, "senryu_queued_requests", "admin") != number:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    await queued(48)
    asking.append(asyncio.create_task(said(client_of(url, "k2"), "modest")))
    await queued(49)
    engine.released.set()
    assert await asyncio.gather(*asking) == [POEM] * 51
    assert order[:3] == ["greedy", "greedy", "modest"]
    assert Counter(order) == {"greedy": 50, "modest": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_the_queue_is_no_longer_in_it(
    stream: bool, waits: Waits, client_of: Any
) -> None:
    engine, url = waits(max_queued=1)
    first = asyncio.create_task(said(client_of(url)))
    await until(url, active_requests=1)
    gone = asyncio.create_task(said(client_of(url), "gone", stream=stream))
    await until(url, queued_requests=1)
    assert await measured(url, "senryu_queued_tokens") > 0
    gone.cancel()
    await asyncio.wait({gone})
    await until(url, queued_requests=0, queued_tokens=0, active_requests=1)
    next_one = asyncio.create_task(said(client_of(url), stream=stream))
    await until(url, queued_requests=1)
    engine.released.set()
    assert await asyncio.gather(first, next_one) == [POEM, POEM]
    await until(url, queued_requests=0, active_requests=0)


# --- its time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, None], ids=["before a word", "after one", "queued"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_takes_too_long_is_broken_off(
    stream: bool, before: int | None, waits: Waits, client_of: Any
) -> None:
    """Also while the engine says nothing, and while it waits for its place there."""
    engine, url = waits(answer_seconds=0.3, before=before or 0, seats=1)
    asking = [asyncio.create_task(said(client_of(url))) for _ in range(before is None)]
    async with httpx.AsyncClient() as client:
        reply = await client.post(
            f"{url}/v1/messages", json=saying("Hm.") | {"stream": stream}, timeout=20
        )
    if stream:
        assert reply.status_code == 200
        lines = [line for line in reply.text.split("\n") if line.startswith("data: ")]
        events = [json.loads(line[6:]) for line in lines]
        assert events[0]["type"] == "message_start"
        assert [event["type"] for event in events].count("content_block_delta") == (before or 0)
        body = events[-1]
    else:
        assert reply.status_code == 504
        body = reply.json()
    assert (body["type"], body["request_id"]) == ("error", reply.headers["request-id"])
    assert body["error"]["type"] == "timeout_error"
    assert "longer than 0.3 seconds" in body["error"]["message"]
    for each in asyncio.as_completed(asking):
        with pytest.raises(anthropic.APIStatusError) as late:
            await each
        assert late.value.status_code == 504
    await until(url, active_requests=0, queued_requests=0)
    assert not engine.active
    assert not engine.released.is_set()


async def test_the_official_client_reads_it_as_an_error_of_time(
    waits: Waits, client_of: Any
) -> None:
    _, url = waits(answer_seconds=0.1)
    for stream in (False, True):
        with pytest.raises(anthropic.APIStatusError) as late:
            await said(client_of(url), stream=stream)
        assert late.value.type == "timeout_error"


# --- a server that stops -----------------------------------------------------------------------


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real server, which keeps what it keeps in the folder."""
    told = {f"SENRYU_{name.upper()}": str(value) for name, value in settings.items()}
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"],
            env={**os.environ, "SENRYU_DATA": str(folder), **told},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield process, re.findall(r"http://[\d.:]+", line)[0]
    finally:
        process.kill()
        process.communicate()


def test_streams_that_run_are_finished_before_a_server_stops(tmp_path: Path) -> None:
    tokens = 8_000
    with (
        running(tmp_path, scripted_tokens=tokens, grace_seconds=600) as (process, url),
        Anthropic(base_url=url, api_key="local", max_retries=0) as client,
        ThreadPoolExecutor() as threads,
    ):
        asked = {**saying("Go on."), "max_tokens": tokens}
        streams = [client.messages.create(**asked, stream=True) for _ in range(2)]
        assert [next(iter(told)).type for told in streams] == ["message_start"] * 2
        process.send_signal(signal.SIGTERM)
        for *_, delta, last in threads.map(list, streams):
            assert last.type == "message_stop"
            assert delta.usage.output_tokens == tokens
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_a_stopping_server_does_not_wait_for_its_batches_and_the_next_one_finishes_them(
    tmp_path: Path,
) -> None:
    def states() -> Counter[str]:
        book = sqlite3.connect(f"file:{tmp_path / 'senryu.db'}?mode=ro", uri=True)
        try:
            return Counter(state for (state,) in book.execute("SELECT state FROM batch_items"))
        finally:
            book.close()

    def ask(number: int) -> Any:
        """Every third has no end, with the first server."""
        length = 10**8 if number % 3 == 0 else 5
        return {"custom_id": f"n{number}", "params": {**saying("Hm."), "max_tokens": length}}

    endless = {"scripted_tokens": 10**9, "window": 10**9, "batch_streams": 11}
    with (
        running(tmp_path, **endless, grace_seconds=3600) as (process, url),
        Anthropic(base_url=url, api_key="local") as client,
    ):
        batch = client.messages.batches.create(requests=[ask(number) for number in range(30)])
        deadline = time.monotonic() + 60
        while states()["succeeded"] < 20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, "it would wait an hour for somebody's stream"
    assert states() == {"succeeded": 20, "pending": 10}
    with (
        running(tmp_path, scripted_tokens=7, window=10**9) as (process, url),
        Anthropic(base_url=url, api_key="local") as client,
    ):
        deadline = time.monotonic() + 60
        while client.messages.batches.retrieve(batch.id).processing_status != "ended":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        told = list(client.messages.batches.results(batch.id))
    assert sorted(each.custom_id for each in told) == sorted(f"n{n}" for n in range(30))
    written = Counter(
        each.result.message.usage.output_tokens for each in told if each.result.type == "succeeded"
    )
    assert written == {5: 20, 7: 10}
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
