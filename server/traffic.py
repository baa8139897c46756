"""Whether somebody waits for an answer: what can wait gives way.

For the event loop alone: threads do not ask here.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """Counts the answers that are being made."""

    def __init__(self) -> None:
        self._answers = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._busy = asyncio.Event()

    @contextmanager
    def answer(self) -> Iterator[None]:
        """For as long as one is being made."""
        self._answers += 1
        self._quiet.clear()
        self._busy.set()
        try:
            yield
        finally:
            self._answers -= 1
            if not self._answers:
                self._busy.clear()
                self._quiet.set()

    async def quiet(self) -> None:
        """Wait until nobody waits."""
        await self._quiet.wait()

    async def busy(self) -> None:
        """Wait until somebody does."""
        await self._busy.wait()
