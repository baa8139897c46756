"""One request for an answer, from its admission to its line in the ledger.

Admitted is what its caller's limits allow and the queue has room for. It then waits for its place
in the engine, and whatever way it ends, the limits, the ledger and the observers are told what was
used: before the client is, so that nobody has seen a count that the ledger does not have.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.conversation.messages import Sampling, Usage
from senryu.server.engine.base import Engine, EngineCard, TokenEvent
from senryu.server.turn.prompt import Prompt
from senryu.server.turn.turn import Turn
from senryu.server.wire.errors import ApiError, EngineFailed, NotReady, RateLimited, TimedOut

from .account import Ended, Opened, State
from .desk import Desk, Place
from .ledger import Ledger
from .limiter import Hold, Limiter
from .presence import now_ms
from .prices import Prices

log = logging.getLogger("senryu.server")

Result = TypeVar("Result")
Also = Callable[[AsyncConnection], Awaitable[None]]

BATCH_PRIORITY = 100
"""Behind all that somebody waits for, in the engine's own queue too."""
LEDGER_SECONDS = 5.0
"""How long an answer waits for its line in the ledger; then it goes out first."""
_PAUSES = (0.5, 1, 2, 4, 8, 16, 30, 60, 60, 60)


class Observer(Protocol):
    """Who wants to hear of every request."""

    def opened(self, told: Opened) -> None: ...

    def ended(self, told: Ended) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What admits requests, and who is told of them."""

    desk: Desk
    limiter: Limiter
    prices: Prices
    ledger: Ledger | None
    observers: Sequence[Observer]
    seconds: float
    """Time that a request may take."""


class Visit:
    """Entered, it is admitted; inside, `engine` answers in its place. Raises RateLimited,
    BudgetSpent and Overloaded where it may not enter."""

    def __init__(self, opened: Opened, turn: Turn, engine: Engine, rules: Rules) -> None:
        self._opened = opened
        self._turn = turn
        self._rules = rules
        self._engine = engine
        self._ended = False
        self._opening: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[bool] | None = None
        self._broken_off: ApiError | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self.card: EngineCard = engine.card
        self.cached = 0
        self.written = 0
        self._began = asyncio.get_running_loop().time()
        self._seated_at: float | None = None
        self._first_token_at: float | None = None

    async def __aenter__(self) -> Self:
        opened, rules = self._opened, self._rules
        batch = opened.tier == "batch"
        most = rules.prices.most(opened.model, opened.prompt_tokens, opened.max_tokens, opened.tier)
        whose = opened.caller.key_id or ""
        # First the queue: who is turned away there has used nothing of its limits.
        self._place: Place = rules.desk.place(whose, opened.prompt_tokens, batch=batch)
        try:
            self._hold: Hold = rules.limiter.hold(
                opened.caller,
                input_tokens=opened.prompt_tokens,
                output_tokens=opened.max_tokens,
                cost=most,
                paced=not batch,
            )
        except RateLimited:
            self._place.leave()
            raise
        self._place.on_giving_way = partial(
            self._break_off, NotReady("Somebody waits who goes before a batch", retry_after=1)
        )
        late = TimedOut(
            f"The answer took longer than {rules.seconds:g} seconds; ask for less, or have the "
            "server's operator raise answer_seconds"
        )
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._began + rules.seconds, self._break_off, late)
        for observer in rules.observers:
            observer.opened(opened)
        if rules.ledger is not None:
            ledger = rules.ledger
            self._opening = _keep(asyncio.create_task(_insisting(lambda: ledger.opened(opened))))
        return self

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        """The engine's answer, once there is a place for it. Raises what the engine raises,
        TimedOut, and NotReady where a batch gives way."""
        loop = asyncio.get_running_loop()
        await self._unless_broken_off(self._place.seat)
        self._seated_at = loop.time()
        if self._opened.tier == "batch":
            prompt = replace(prompt, priority=BATCH_PRIORITY)
        async with aclosing(self._engine.generate(prompt, sampling, request_id)) as events:
            finish = None
            while finish is None:
                event = await self._unless_broken_off(lambda: anext(events, None))
                if event is None:
                    return
                finish = event.finish
                if event.token_ids:
                    if self._first_token_at is None:
                        self._first_token_at = loop.time()
                    self.written += len(event.token_ids)
                self.cached = max(self.cached, event.cached_tokens)
                yield event
            async for _ in events:  # it is complete: the engine ends by itself, nothing is aborted
                pass

    def _break_off(self, why: ApiError) -> None:
        """Whoever waits for the engine, or for a place in it, waits no longer. A complete answer
        is not taken back."""
        if self._broken_off is None:
            self._broken_off = why
            if self._waiting is not None:
                self._waiting.cancel()

    async def _unless_broken_off(self, wait: Callable[[], Awaitable[Result]]) -> Result:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            if self._broken_off is None:
                self._waiting = task
                return await wait()
        except asyncio.CancelledError:
            # Ours is taken back; that of somebody else, who may have come too, goes on.
            if self._broken_off is None or task.uncancel() > before:
                raise
        finally:
            self._waiting = None
        raise self._broken_off

    async def done(self, usage: Usage, stop_reason: str) -> None:
        """The answer is made: its line is written. Returns when that is on the disk; where it takes
        long, before."""
        self._leave()
        told = self._ending("done", usage, stop_reason)
        self._tell(told)
        if self._rules.ledger is not None:
            writing = asyncio.create_task(self._write(told))
            _keep(writing)
            await asyncio.wait({writing}, timeout=LEDGER_SECONDS)

    async def kept(self, usage: Usage, stop_reason: str, also: Also) -> bool:
        """The same for a request of a batch, once what `also` writes is on the disk in the same
        transaction. False: neither is, for the ledger took this request for lost."""
        self._leave()  # nobody waits for its place while it waits for the disk
        told = self._ending("done", usage, stop_reason)
        self._keeping = _keep(asyncio.create_task(self._write_and_tell(told, also)))
        return await asyncio.shield(self._keeping)  # a server that stops ends the waiting alone

    async def _write_and_tell(self, told: Ended, also: Also) -> bool:
        kept = await self._write(told, also)
        if kept:
            self._tell(told)
        return kept

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        if self._ended or (self._keeping is not None and not self._keeping.done()):
            return
        left = kind is None or issubclass(kind, asyncio.CancelledError | GeneratorExit)
        state: State = "left" if left else "failed"
        told = self._ending(state, self._so_far(), None, None if left else error)
        self._tell(told)
        if self._rules.ledger is not None:
            _keep(asyncio.create_task(self._write(told)))

    def _leave(self) -> None:
        # Neither knows us any longer: what goes round in a circle stays in memory for minutes.
        self._timer.cancel()
        self._place.on_giving_way = None
        self._place.leave()

    def _so_far(self) -> Usage:
        """What was used of the engine; of a batch nothing is counted but answers."""
        if self._opened.tier == "batch" or self._seated_at is None:
            return Usage(input_tokens=0, output_tokens=0)
        usage = self._turn.usage(cached=self.cached, block=self.card.block)
        return replace(usage, output_tokens=self.written)

    def _ending(
        self,
        state: State,
        usage: Usage,
        stop_reason: str | None,
        error: BaseException | None = None,
    ) -> Ended:
        opened = self._opened
        now = asyncio.get_running_loop().time()
        first = self._first_token_at
        error_type = error.type if isinstance(error, ApiError) else EngineFailed.type
        return Ended(
            opened=opened,
            state=state,
            usage=usage,
            stop_reason=stop_reason,
            ended_at=now_ms(),
            queued_ms=round(1000 * ((self._seated_at or now) - self._began)),
            first_token_ms=None if first is None else round(1000 * (first - self._began)),
            cost=self._rules.prices.cost(opened.model, usage, opened.tier),
            error_type=None if error is None else error_type,
        )

    def _tell(self, told: Ended) -> None:
        """The limits and the observers hear how it ended, once."""
        self._ended = True
        usage = told.usage
        counted = usage.input_tokens + usage.cache_creation_tokens
        self._rules.limiter.settle(
            self._hold,
            input_tokens=counted,
            output_tokens=usage.output_tokens,
            total_tokens=counted + usage.output_tokens,
            cost=told.cost,
        )
        for observer in self._rules.observers:
            observer.ended(told)

    async def _write(self, told: Ended, also: Also | None = None) -> bool:
        ledger = self._rules.ledger
        assert ledger is not None
        if self._opening is not None:  # its line is there before it is completed
            await asyncio.wait({self._opening})
        return await _insisting(lambda: ledger.ended(told, also))


async def _insisting(write: Callable[[], Awaitable[Result]]) -> Result:
    """Writes, and where the database fails writes again: minutes of a full disk lose nothing.
    Raises what it raises in the end."""
    for pause in _PAUSES:
        try:
            return await write()
        except (SQLAlchemyError, OSError) as error:
            log.error("A line of the ledger could not be written, it is tried again: %s", error)
        await asyncio.sleep(pause)
    return await write()


_writing: set[asyncio.Task[Any]] = set()


def _keep(task: asyncio.Task[Result]) -> asyncio.Task[Result]:
    """Somebody holds on to a task that nobody waits for, and hears how it ends."""
    _writing.add(task)
    task.add_done_callback(_let_go)
    return task


def _let_go(task: asyncio.Task[Any]) -> None:
    _writing.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("A line of the ledger is lost: %s", error)


async def all_written() -> None:
    """Waits for what is still to be written in the ledger: a server that stops does."""
    while _writing:
        await asyncio.wait(set(_writing))
