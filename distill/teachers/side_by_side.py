"""Answers many asks at once, as many as there is room for.

Comes in: asks, drawn one by one, and a coroutine that answers one. Goes out: answers as they are
finished. It refuses to know who answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from .base import Answer, Ask


async def side_by_side(
    asks: Iterable[Ask], answer: Callable[[Ask], Awaitable[Answer]], streams: int
) -> AsyncGenerator[Answer, None]:
    """The next ask is drawn when fewer than `streams` are in the making. What is in the making when
    this is left, by an error or because nobody wants more, is given up."""
    source = iter(asks)
    making: set[asyncio.Future[Answer]] = set()
    try:
        while True:
            while len(making) < streams and (ask := next(source, None)) is not None:
                making.add(asyncio.ensure_future(answer(ask)))
            if not making:
                return
            done, making = await asyncio.wait(making, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                yield each.result()
    finally:
        for each in making:
            each.cancel()
        await asyncio.gather(*making, return_exceptions=True)
