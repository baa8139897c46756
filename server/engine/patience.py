"""The engine's events, the first of which is waited for a while and no longer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from .base import TokenEvent


class Patient:
    """Iterates over `events`; closing it closes them, also while the first is waited for."""

    def __init__(self, events: AsyncGenerator[TokenEvent, None]) -> None:
        self._events = events
        self._first: asyncio.Task[TokenEvent | None] | None = None

    async def first(self, seconds: float) -> TokenEvent | None:
        """The first event, which iterating gives once more; None when it is not there in time or
        there is none. Raises what the engine raises."""
        self._first = asyncio.create_task(self._next())
        await asyncio.wait({self._first}, timeout=seconds)
        return self._first.result() if self._first.done() else None

    async def _next(self) -> TokenEvent | None:
        return await anext(self._events, None)

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._first is None:
            return await anext(self._events)
        event = await self._first
        self._first = None
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        try:
            if self._first is not None:
                self._first.cancel()
                # Nobody is there any longer to be told how it ended.
                await asyncio.gather(self._first, return_exceptions=True)
        finally:
            await self._events.aclose()
