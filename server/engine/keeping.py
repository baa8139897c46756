"""An engine that is opened again when it dies.

vLLM's processes can be killed, by the system when memory is short above all. What was being
answered then fails, and what comes is told to come back, until the next one is open.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from senryu.server.conversation.messages import Sampling
from senryu.server.turn.prompt import ChatTokenizer, Prompt

from .base import Engine, EngineCard, EngineError, EngineGone, TokenEvent

log = logging.getLogger("senryu.server")

LOOKS = 0.5
"""Seconds between two looks at whether it lives."""
_PAUSES = (0, 1, 2, 5, 10, 30, 60)
_CLOSING = 20.0
_FIRST_GUESS = 60.0


class KeptEngine:
    """`engine`, and after it what `reopen` opens. `keep` does so, for as long as it runs."""

    def __init__(
        self,
        engine: Engine,
        reopen: Callable[[], Awaitable[Engine]],
        *,
        pauses: tuple[float, ...] = _PAUSES,
    ) -> None:
        self._engine = engine
        self._reopen = reopen
        self._pauses = pauses
        self._gone = False
        self._opens_at = 0.0
        self._took = _FIRST_GUESS
        self.deaths = 0

    @property
    def card(self) -> EngineCard:
        return self._engine.card

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._engine.tokenizer

    def look(self, prompt: Prompt) -> Prompt:
        if self._gone:
            raise self._told()
        return self._engine.look(prompt)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        if self._gone:
            raise self._told()
        events = self._engine.generate(prompt, sampling, request_id)
        try:
            async for event in events:
                yield event
        except EngineGone:
            raise self._told() from None
        finally:
            await events.aclose()

    async def refusal(self, grammar: str) -> str | None:
        if self._gone:
            raise self._told()
        return await self._engine.refusal(grammar)

    async def healthy(self) -> bool:
        return not self._gone and await self._engine.healthy()

    def back_in(self) -> int | None:
        return max(1, round(self._opens_at - time.monotonic()))

    async def close(self) -> None:
        if not self._gone:
            await self._engine.close()

    async def keep(self) -> None:
        """Looks after the engine until it is cancelled."""
        while True:
            await asyncio.sleep(LOOKS)
            if not await self._engine.healthy():
                await self._open_again()

    async def _open_again(self) -> None:
        self._gone = True
        self.deaths += 1
        self._opens_at = time.monotonic() + self._took
        log.error("The engine has stopped; it is started again")
        with suppress(Exception):  # it is dead: what it leaves is taken away as far as that goes
            async with asyncio.timeout(_CLOSING):
                await self._engine.close()
        tries = 0
        while True:
            await asyncio.sleep(self._pauses[min(tries, len(self._pauses) - 1)])
            began = time.monotonic()
            self._opens_at = began + self._took
            try:
                self._engine = await self._reopen()
            except EngineError as error:
                tries += 1
                log.error("The engine did not start again, it is tried once more: %s", error)
                continue
            self._took = max(1.0, time.monotonic() - began)
            self._gone = False
            log.warning("The engine answers again, %.0f s after it was started", self._took)
            return

    def _told(self) -> EngineGone:
        return EngineGone(self.back_in())
