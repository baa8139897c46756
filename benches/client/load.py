"""Load on one server: conversations side by side, or begun when a clock says so.

Comes in: a `Target` and conversations. Goes out: a `Sample` of every request that was sent. A
closed loop keeps so many conversations going and shows what a server can do; an open one begins
them at times that were drawn before, whether the server keeps up or not, and shows what its users
would wait. There waiting counts from when a request was due: a client that waits for answers
before it asks again would leave out just the slow ones.

A request that fails is a sample like any other, and ends its conversation, as its user would; an
answer that ended well and has not the form that was asked for does not.
"""

import asyncio
import math
import random
import resource
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import orjson
import uvloop

from senryu.benches.asks import Ask, Conversation

from .connection import Address, Connections, Fault, Reply
from .reading import Reading, sentence, shown
from .sample import Failure, Sample

Heard = Callable[[Sample], None]
Result = TypeVar("Result")

_MODELS = "/v1/models"
_COUNT = "/v1/messages/count_tokens"
_COUNTED = ("messages", "system", "tools", "tool_choice", "thinking", "output_config")


class Api(Protocol):
    """How a server is spoken to."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def headers(self, key: str) -> list[tuple[str, str]]: ...
    def body(self, ask: Ask, model: str) -> bytes: ...
    def reader(self, ask: Ask) -> Reading: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked, and how."""

    url: str
    api: Api
    model: str
    key: str = ""
    patience: float = 120.0
    """Seconds without a byte after which a request has failed. A ping is some bytes: it is there
    to keep clients waiting."""


class Unreachable(Exception):
    """A server cannot be asked at all. The text is one sentence."""


def run(load: Coroutine[Any, Any, Result]) -> Result:
    """Runs it in the loop that costs least, with as many connections as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(load)


async def closed_loop(
    target: Target,
    conversations: Sequence[Conversation],
    *,
    concurrency: int,
    heard: Heard | None = None,
) -> list[Sample]:
    """`concurrency` conversations at a time, in their order, and each the next when one ended.

    `heard` is given each sample when it ends. Cancelled, it raises CancelledError with the number
    of requests that were still running, of which there is no sample. Raises ValueError before
    anything is sent where a conversation cannot be asked, or the address is none.
    """
    load = _Load(target, conversations, heard)
    left = iter(conversations)

    async def one_after_the_other() -> None:
        for conversation in left:
            await load.converse(conversation)

    workers = min(concurrency, len(conversations))
    return await load.of(one_after_the_other() for _ in range(workers))


async def open_loop(
    target: Target,
    conversations: Sequence[Conversation],
    *,
    rate: float,
    seed: int,
    heard: Heard | None = None,
) -> list[Sample]:
    """`rate` conversations a second, begun when a Poisson process says so; the rest as above. In a
    conversation a request is due when the one before it was answered."""
    load = _Load(target, conversations, heard)

    async def on_time() -> None:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for conversation, after in zip(
                conversations, schedule(len(conversations), rate=rate, seed=seed), strict=True
            ):
                # Made while there is time.
                request = load.request(conversation[0]) if conversation else None
                await _sleep_until(begun + after)
                group.create_task(load.converse(conversation, begun + after, request))

    return await load.of([on_time()])


def schedule(count: int, *, rate: float, seed: int) -> list[float]:
    """Seconds after which each of `count` is due: a Poisson process of `rate` a second."""
    rng = random.Random(seed)  # noqa: S311 - drawn to be repeated
    return list(accumulate(rng.expovariate(rate) for _ in range(count)))


async def _sleep_until(due: float) -> None:
    """Never returns early: uvloop counts in whole milliseconds."""
    await asyncio.sleep(0)  # a client that is late still reads
    while (left := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock sets no event
        await asyncio.sleep(left)


class _Load:
    """What has come of a load so far."""

    def __init__(
        self, target: Target, conversations: Sequence[Conversation], heard: Heard | None
    ) -> None:
        self._target = target
        self._address = Address.of(target.url)
        self._connections = Connections(self._address, patience=target.patience)
        self._heard = heard
        self._samples: list[Sample] = []
        self._running = 0
        for ask in (ask for conversation in conversations for ask in conversation):
            try:
                self.request(ask)  # what cannot be sent is known before anything is
            except orjson.JSONEncodeError as error:
                raise ValueError(f"a request that is no JSON: {error}") from error

    async def of(self, parts: Sequence[Coroutine[Any, Any, None]] | Iterator[Any]) -> list[Sample]:
        """Runs all of them to their end."""
        try:
            async with self._connections, asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part)
        except asyncio.CancelledError:
            raise asyncio.CancelledError(self._running) from None
        return self._samples

    def request(self, ask: Ask) -> bytes:
        target = self._target
        return self._address.request(
            "POST",
            target.api.path,
            target.api.headers(target.key),
            target.api.body(ask, target.model),
        )

    async def converse(
        self, conversation: Conversation, due: float | None = None, request: bytes | None = None
    ) -> None:
        for ask in conversation:
            request = request or self.request(ask)
            sample = await self._ask(ask, request, due)
            if sample.failure is not None and sample.failure.kind != "malformed":
                return
            due, request = None, None

    async def _ask(self, ask: Ask, request: bytes, due: float | None) -> Sample:
        begun = time.perf_counter()
        reader = self._target.api.reader(ask)
        reply = Reply(reader)
        fault = None
        self._running += 1
        try:
            await self._connections.ask(request, reply)
        except Fault as error:
            fault = error
        ended = time.perf_counter()
        due = begun if due is None else due
        sample = Sample(
            due=due,
            late=begun - due,
            sent=begun if reply.sent is None else reply.sent,
            ended=reader.ended if reader.over else ended,
            first_token=reader.first_token,
            last_token=reader.last_token,
            gaps=reader.gaps,
            asked_tokens=ask.max_tokens,
            usage=reader.usage,
            stop_reason=reader.stop_reason,
            counted=ask.counted,
            failure=_failure(reply, reader, fault, ended),
        )
        self._running -= 1
        self._samples.append(sample)
        if self._heard is not None:
            self._heard(sample)
        return sample


def _failure(reply: Reply, reader: Reading, fault: Fault | None, at: float) -> Failure | None:
    if reply.status not in (0, 200):
        return Failure(
            kind="refused",
            text=_said(reply),
            status=reply.status,
            retry_after=_retry_after(reply.headers),
        )
    if reply.status == 200 and not reply.streams:
        kind = reply.headers.get("content-type", "")
        what = "compressed, though it was asked not to be" if reply.packed else f"{kind!r}"
        text = f"the reply is no event stream, but {what}: {'' if reply.packed else _said(reply)}"
        return Failure(kind="garbled", text=text.removesuffix(": "), status=200)
    if fault is None:
        reader.close(at)
    if reader.over:
        return reader.failure
    assert fault is not None
    return Failure(kind=fault.kind, text=fault.text)


def _said(reply: Reply) -> str:
    """One sentence, the server's own where it has one."""
    if 300 <= reply.status < 400:
        return f"it sends on to {shown(reply.headers.get('location', 'nowhere'))!r}"
    if reply.packed:
        return "its words are compressed, though they were asked not to be"
    try:
        words = sentence(orjson.loads(reply.text))
    except orjson.JSONDecodeError:
        words = ""
    return words or shown(reply.text) or "it says nothing"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, or a date."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            date = parsedate_to_datetime(told)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = max(0.0, (date - datetime.now(UTC)).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


async def first_model(url: str, key: str = "", *, patience: float = 20.0) -> str:
    """The first that a server names. Raises Unreachable."""
    # Whose server it is shows only later: both ways to show a key.
    headers = [("anthropic-version", "2023-06-01"), ("accept", "application/json")]
    if key:
        headers += [("x-api-key", key), ("authorization", f"Bearer {key}")]
    try:
        reply = await _once(url, "GET", _MODELS, headers, b"", patience)
    except (Fault, ValueError) as error:
        raise Unreachable(f"{url}{_MODELS}: {error}") from error
    if reply.status != 200:
        raise Unreachable(f"{url}{_MODELS} answers {reply.status}: {_said(reply)}")
    try:
        return str(orjson.loads(reply.text)["data"][0]["id"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise Unreachable(f"{url}{_MODELS} names no model: {shown(reply.text)}") from None


async def count(target: Target, body: Mapping[str, Any]) -> int | None:
    """What `count_tokens` says of a body's prompt; None where it is not told."""
    asked = {name: body[name] for name in _COUNTED if name in body} | {"model": target.model}
    headers = target.api.headers(target.key)
    try:
        reply = await _once(
            target.url, "POST", _COUNT, headers, orjson.dumps(asked), target.patience
        )
        tokens = orjson.loads(reply.text)["input_tokens"] if reply.status == 200 else None
    except (Fault, orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return tokens if type(tokens) is int else None


async def _once(
    url: str, method: str, path: str, headers: list[tuple[str, str]], body: bytes, patience: float
) -> Reply:
    """A question of its own."""
    address = Address.of(url)
    reply = Reply()
    async with Connections(address, patience=patience) as connections:
        await connections.ask(address.request(method, path, headers, body), reply)
    return reply
