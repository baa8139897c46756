"""Batches without HTTP and without an engine: what several tests of them share."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from senryu.server.answering import Batched, Spoken
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.batch_worker import BatchWorker
from senryu.server.tenancy.batches import Batches
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.store.opening import Store
from senryu.server.wire.batches import Batch

ANN = Caller(name="ann", salt="a", role="batch", key_id="key_ann")
BOB = Caller(name="bob", salt="b", key_id="key_bob")
CY = Caller(name="cy", salt="c", key_id="key_cy", workspace_id="wrkspc_1")
DI = Caller(name="di", salt="c", key_id="key_di", workspace_id="wrkspc_1")
CALLERS = {caller.key_id: caller for caller in (ANN, BOB, CY, DI)}
HOUR = 3_600_000


@dataclass(slots=True)
class Clock:
    """Goes when it is told to."""

    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


def spoken(caller: Caller = ANN, task: str | None = None) -> Spoken:
    return Spoken(
        version="2026-10-21",
        betas=frozenset({"context-1m-2025-08-07"}),
        caller=caller,
        request_id="req_1",
        task=task,
    )


def texts(requests: Iterable[Any]) -> Callable[[int], bytes]:
    """The body of a batch, to be read."""
    return BytesIO(json.dumps({"requests": list(requests)}).encode()).read


def asking(*custom_ids: str) -> list[dict[str, Any]]:
    return [{"custom_id": each, "params": {"ask": each}} for each in custom_ids]


@dataclass(slots=True)
class Answering:
    """Answers with what was asked, `wait`ing first and raising what `troubles` has for it."""

    store: Store
    asked: list[str] = field(default_factory=list)
    heard: list[Spoken] = field(default_factory=list)
    troubles: dict[str, list[Exception]] = field(default_factory=dict)
    wait: Callable[[str], Awaitable[None]] | None = None
    active: int = 0
    most_active: int = 0

    async def __call__(self, params: bytes, said: Spoken, batched: Batched) -> None:
        ask = json.loads(params)["ask"]
        self.asked.append(ask)
        self.heard.append(said)
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await asyncio.sleep(0)
            if self.wait is not None:
                await self.wait(ask)
            if self.troubles.get(ask):
                raise self.troubles[ask].pop(0)
            await self.store.write(batched.keep(json.dumps({"said": ask}).encode()))
        finally:
            self.active -= 1


def batches_of(store: Store, clock: Clock, *, server: str = "server_1", **changed: Any) -> Batches:
    return Batches(store, ServerSettings(**changed), server_id=server, clock=clock)


def worker_of(
    store: Store,
    answer: Answering,
    clock: Clock,
    *,
    server: str = "server_1",
    living: frozenset[str] = frozenset(),
    streams: int = 4,
    callers: dict[str | None, Caller] | None = None,
) -> BatchWorker:
    """Not started yet. `living` are the servers beside this one."""

    async def all_living() -> frozenset[str]:
        return living

    known = CALLERS if callers is None else callers
    return BatchWorker(
        store,
        answer=answer,
        streams=streams,
        server_id=server,
        living=all_living,
        caller=known.get,
        days=29,
        clock=clock,
    )


async def ended(batches: Batches, batch: Batch, caller: Caller = ANN) -> Batch:
    async with asyncio.timeout(20):
        # It is the database that tells, and not an asyncio.Event.
        while (batch := await batches.get(batch.id, caller)).status != "ended":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return batch


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def results(batches: Batches, batch: Batch, caller: Caller = ANN) -> dict[str, Any]:
    """By their names, each of which is there once."""
    text = b"".join([part async for part in await batches.results(batch.id, caller)])
    lines = [json.loads(line) for line in text.splitlines()]
    assert not [name for name, times in Counter(x["custom_id"] for x in lines).items() if times > 1]
    return {line["custom_id"]: line["result"] for line in lines}


def counts(batch: Batch) -> tuple[int, int, int, int]:
    return batch.succeeded, batch.errored, batch.canceled, batch.expired
