"""Works on the stored batches, some requests at a time, in the gaps that other requests leave.

Nothing but the store knows what is done. A request is pending until its result is written, and is
written only by the server whose batch it is, and only while it is pending: killed at any moment
none is lost and none is there twice. A server that stops leaves its batches to whoever comes next.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.answering import Batched, Spoken, Work
from senryu.server.identifiers import new_id
from senryu.server.wire.batches import errored, succeeded
from senryu.server.wire.errors import (
    ApiError,
    BudgetSpent,
    EngineFailed,
    NotReady,
    Overloaded,
    RateLimited,
)

from .batch_rows import ACTIVE, end, owned, tidy
from .callers import Caller
from .presence import now_ms
from .store.opening import Store
from .store.tables import batch_items, batches

log = logging.getLogger("senryu.server")

Answer = Callable[[bytes, Spoken, Batched], Awaitable[None]]

_LOOK = 1.0  # seconds between two looks at what others did to our batches
_ROLL_CALL = 5.0  # ... at who lives
_TIDY = 600.0
_NUMBERS = 256  # of requests that are known ahead
_TRIES = 3  # of a request that breaks in the engine
_LONGEST_PAUSE = 30.0


class NotKept(Exception):
    """A result came too late: the batch is another server's by now, or is gone. Nothing of the
    transaction that was to keep it may stay."""


@dataclass(slots=True, eq=False)
class _Held:
    """A batch that this server works on."""

    id: str
    key_id: str | None
    version: str
    betas: frozenset[str]
    task: str | None
    expires_at: int
    canceling: bool = False
    lost: bool = False
    """Whether it is another's by now."""
    waiting: deque[int] = field(default_factory=deque)
    """Numbers of requests to be begun next."""
    read_to: int = -1
    all_read: bool = False
    running: int = 0
    failures: Counter[int] = field(default_factory=Counter)


class BatchWorker:
    """Once started, works until it is closed. For one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        answer: Answer,
        streams: int,
        server_id: str,
        living: Callable[[], Awaitable[Collection[str]]],
        caller: Callable[[str | None], Caller | None],
        days: float,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`living` tells which servers use this database now, `caller` who has a key; a batch
        whose key is gone waits until it is back, or until it expires. Results are kept for
        `days`."""
        self._store, self._answer, self._streams = store, answer, streams
        self._me, self._living, self._caller = server_id, living, caller
        self._days, self._clock = days, clock
        self._held: dict[str, _Held] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._look_at = self._roll_call_at = self._tidy_at = 0.0
        self._alive: Collection[str] = ()
        self._resume_at = 0.0
        self._troubles = 0
        self._patience: dict[str | None, float] = {}  # keys that are over their limits, until then

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """There is a new batch, or one to be canceled."""
        self._look_at = 0.0
        self._woken.set()

    async def close(self) -> None:
        """Breaks off what is worked on, which stays pending, and leaves the batches to others."""
        tasks = {*self._running, *({self._task} if self._task else ())}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = None

        async def work(connection: AsyncConnection) -> None:
            mine = (batches.c.server == self._me, batches.c.status.in_(ACTIVE))
            await connection.execute(update(batches).where(*mine).values(server=None))

        with suppress(SQLAlchemyError, OSError):  # whoever comes next sees that we are gone
            await self._store.write(work)

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._look()
                await self._begin()
                await self._end()
            except (SQLAlchemyError, OSError) as error:
                self._pause(None)
                log.error("Batches wait, the database cannot be used: %s", error)
            except Exception:
                self._pause(None)
                log.exception("Batches wait: something went wrong that should not")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._woken.wait()

    async def _look(self) -> None:
        """Which batches are ours, and what became of them."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK
        if now >= self._roll_call_at:
            self._alive = {*await self._living(), self._me}
            self._roll_call_at = now + _ROLL_CALL
        if now >= self._tidy_at:
            await tidy(self._store, self._alive, self._clock(), self._days)
            self._tidy_at = now + _TIDY
        await self._take()
        table = batches.c
        query = select(batches).where(table.server == self._me, table.status.in_(ACTIVE))
        async with self._store.reading() as connection:
            rows = (await connection.execute(query.order_by(table.created_at))).all()
        for gone in self._held.keys() - {row.id for row in rows}:
            self._held[gone].lost = True
        for row in rows:
            held = self._held.get(row.id)
            if held is None or (held.lost and not held.running):
                held = self._held[row.id] = _Held(
                    id=row.id,
                    key_id=row.key_id,
                    version=row.version,
                    betas=frozenset(row.betas),
                    task=row.task,
                    expires_at=row.expires_at,
                )
            held.canceling = row.status == "canceling"

    async def _take(self) -> None:
        """Batches that nobody works on become ours."""
        table = batches.c
        nobodys = or_(table.server.is_(None), table.server.not_in(self._alive))
        mine = (table.status.in_(ACTIVE), nobodys)
        async with self._store.reading() as connection:
            if (await connection.execute(select(table.id).where(*mine).limit(1))).first() is None:
                return

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(batches).where(*mine).values(server=self._me))

        await self._store.write(work)

    async def _begin(self) -> None:
        while len(self._running) < self._streams:
            for held in list(self._held.values()):
                if not (held.waiting or held.all_read or self._over(held)):
                    await self._read_on(held)
            # From here on nothing is waited for, so that nothing changes what may be begun.
            if time.monotonic() < self._resume_at or (turn := self._next()) is None:
                return
            self._start(turn)

    def _start(self, held: _Held) -> None:
        held.running += 1
        task = asyncio.create_task(self._one(held, held.waiting.popleft()))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _next(self) -> _Held | None:
        """The batch whose turn it is: each in its turn, so that a short one need not wait for the
        end of a long one."""
        now = time.monotonic()
        self._patience = {key: until for key, until in self._patience.items() if until > now}
        for held in list(self._held.values()):
            stays = self._over(held) or held.key_id in self._patience or not held.waiting
            if not stays and self._caller(held.key_id) is not None:
                self._held[held.id] = self._held.pop(held.id)
                return held
        return None

    def _over(self, held: _Held) -> bool:
        return held.canceling or held.lost or self._clock() >= held.expires_at

    async def _read_on(self, held: _Held) -> None:
        table = batch_items.c
        query = select(table.number).where(
            table.batch_id == held.id, table.state == "pending", table.number > held.read_to
        )
        async with self._store.reading() as connection:
            ordered = query.order_by(table.number).limit(_NUMBERS)
            numbers = (await connection.execute(ordered)).scalars().all()
        held.waiting.extend(numbers)
        if numbers:
            held.read_to = numbers[-1]
        else:
            held.all_read = True

    async def _end(self) -> None:
        for held in list(self._held.values()):
            finished = self._over(held) or (held.all_read and not held.waiting)
            if held.running or not finished:
                continue
            if held.lost or await end(self._store, held.id, self._me, self._clock()):
                del self._held[held.id]
            else:
                held.read_to, held.all_read = -1, False

    async def _one(self, held: _Held, number: int) -> None:
        """One request, until its result is kept or it is pending again."""
        try:
            await self._answered(held, number)
        except NotKept:
            held.lost = True
        except BudgetSpent as error:
            await self._failed(held, number, error)
        except RateLimited as error:
            held.waiting.appendleft(number)
            self._patience[held.key_id] = time.monotonic() + _seconds(error.retry_after, 1.0)
        except (NotReady, Overloaded) as error:
            held.waiting.appendleft(number)
            self._pause(error.retry_after)
        except (SQLAlchemyError, OSError) as error:
            held.waiting.appendleft(number)
            self._pause(None)
            log.error("A batch waits, the database cannot be used: %s", error)
        except Exception as error:
            await self._broken(held, number, error)
        finally:
            held.running -= 1
            self._woken.set()

    async def _answered(self, held: _Held, number: int) -> None:
        mine = (batch_items.c.batch_id == held.id, batch_items.c.number == number)
        query = select(batch_items.c.params).where(*mine, batch_items.c.state == "pending")
        async with self._store.reading() as connection:
            params: str | None = (await connection.execute(query)).scalar()
        if params is None:
            return
        caller = self._caller(held.key_id)
        if caller is None:  # it waits for its key
            held.waiting.appendleft(number)
            return
        request_id = new_id("req")
        spoken = Spoken(
            version=held.version,
            betas=held.betas,
            caller=caller,
            request_id=request_id,
            task=held.task,
        )
        batched = Batched(held.id, held.task, partial(self._keeping, held, number))
        try:
            await self._answer(params.encode(), spoken, batched)
        except (RateLimited, NotReady, Overloaded, EngineFailed):
            raise
        except ApiError as error:
            await self._store.write(
                self._writing(held, number, "errored", errored(error, request_id))
            )
        self._troubles = 0

    async def _broken(self, held: _Held, number: int, error: Exception) -> None:
        """It broke in the engine, or in our hands: it is tried again, but not for ever."""
        held.failures[number] += 1
        if not isinstance(error, ApiError):
            log.error("a request of the batch %s failed", held.id, exc_info=error)
            error = EngineFailed("Internal server error")
        if held.failures[number] < _TRIES:
            held.waiting.appendleft(number)
            self._pause(error.retry_after)
            return
        del held.failures[number]
        await self._failed(held, number, error)

    async def _failed(self, held: _Held, number: int, error: ApiError) -> None:
        result = errored(error, new_id("req"))
        try:
            await self._store.write(self._writing(held, number, "errored", result))
        except NotKept:
            held.lost = True
        except (SQLAlchemyError, OSError):
            held.waiting.appendleft(number)
            self._pause(None)

    def _keeping(self, held: _Held, number: int, message: bytes) -> Work:
        return self._writing(held, number, "succeeded", succeeded(message))

    def _writing(self, held: _Held, number: int, state: str, result: str) -> Work:
        async def work(connection: AsyncConnection) -> None:
            done = await connection.execute(
                update(batch_items)
                .where(
                    batch_items.c.batch_id == held.id,
                    batch_items.c.number == number,
                    batch_items.c.state == "pending",
                    owned(held.id, self._me),
                )
                .values(state=state, result=result, params=None)
            )
            if not done.rowcount:
                raise NotKept(f"the batch {held.id} is another's by now")

        return work

    def _pause(self, seconds: int | None) -> None:
        """Nothing new is begun for a while, which is the longer the more often it has happened."""
        self._troubles += 1
        grown = min(_LONGEST_PAUSE, 0.5 * 2 ** min(self._troubles - 1, 8))
        self._resume_at = time.monotonic() + _seconds(seconds, grown)


def _seconds(told: int | None, otherwise: float) -> float:
    return otherwise if told is None else told
