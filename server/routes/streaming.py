"""Answers on their way out: the event stream, and the wait that notices a client who left.

Starlette's StreamingResponse spends a task group and an iterator layer on every stream; this
one writes frames straight to the server, which is what keeps a token cheap. Pings come from a
timer that looks at the clock only when it fires, so tokens pay one clock reading each.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from senryu.server.wire.sse import PING

Result = TypeVar("Result")

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Sends frames as they come. A client that leaves closes the generator, and with it the
    engine's request."""

    def __init__(self, frames: AsyncGenerator[bytes, None], *, ping_seconds: float) -> None:
        self.status_code = 200
        self.background = None
        self._frames = frames
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        sending = asyncio.create_task(self._send(send))
        await _first_of(sending, receive)
        with suppress(asyncio.CancelledError):
            await sending

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        pings: set[asyncio.Task[None]] = set()

        def look() -> None:
            nonlocal timer, sent_at
            quiet = loop.time() - sent_at
            if quiet >= self._ping_seconds:
                ping = asyncio.ensure_future(_body(send, PING))
                pings.add(ping)
                ping.add_done_callback(pings.discard)
                sent_at, quiet = loop.time(), 0.0
            timer = loop.call_later(self._ping_seconds - quiet, look)

        timer = loop.call_later(self._ping_seconds, look)
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                    sent_at = loop.time()
        finally:
            timer.cancel()
            for ping in pings:
                ping.cancel()
        await send({"type": "http.response.body", "body": b""})


async def _body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result | None:
    """The result of `work`, or None when the client left first and `work` was cancelled."""
    task = asyncio.create_task(work)
    await _first_of(task, receive)
    return None if task.cancelled() else task.result()


async def _first_of(task: asyncio.Task[Any], receive: Receive) -> None:
    """Waits for `task`; cancels it, and waits for its clean-up, when the client leaves."""
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
