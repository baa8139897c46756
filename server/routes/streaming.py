"""Answers on their way out: the event stream, and the wait that notices a client who left.

Starlette's StreamingResponse spends a task group and an iterator layer on every stream; this
one writes frames straight to the server, which is what keeps a token cheap. Pings come from a
timer that looks at the clock only when it fires, so tokens pay one clock reading each.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from senryu.server.wire.errors import NotReady
from senryu.server.wire.sse import PING

Result = TypeVar("Result")

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def stopping() -> NotReady:
    """What a request hears that the server does not wait for any longer."""
    return NotReady("The server is stopping; send the request again shortly", retry_after=5)


class EventStream(Response):
    """Sends frames as they come, the status with the first: what is raised before it is an error
    like any other. A client that leaves closes the generator, and with it the engine's request. A
    server that stops closes it too, and sends `farewell` as the last frame."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        ping_seconds: float,
        farewell: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._all_headers = [*HEADERS, *more]
        self._frames = frames
        self._ping_seconds = ping_seconds
        self._farewell = farewell
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        try:
            await _first_of(sending, receive)
        except asyncio.CancelledError:  # the grace that a stopping server gives is over
            if not self._begun:
                raise
            await send({"type": "http.response.body", "body": self._farewell})
            return
        with suppress(asyncio.CancelledError):
            await sending

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        pings: _Pings | None = None
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    if pings is None:
                        await self._begin(send)
                        # Not before the first frame: clients want that to be the first event.
                        pings = _Pings(send, loop, self._ping_seconds)
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                    pings.quiet_since = loop.time()
        finally:
            if pings is not None:
                pings.stop()
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._all_headers})
        self._begun = True


class _Pings:
    """Sends a ping whenever the stream has been quiet for long."""

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._send = send
        self._loop = loop
        self._seconds = seconds
        self._sending: asyncio.Task[None] | None = None
        self.quiet_since = loop.time()
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self.quiet_since >= self._seconds:
            # A client that does not read takes no ping either: they are not to pile up.
            if self._sending is None or self._sending.done():
                message = {"type": "http.response.body", "body": PING, "more_body": True}
                self._sending = self._loop.create_task(_sent(self._send, message))
            self.quiet_since = now
        self._timer = self._loop.call_later(self.quiet_since + self._seconds - now, self._look)

    def stop(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()


async def _sent(send: Send, message: Message) -> None:
    await send(message)


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result | None:
    """The result of `work`, or None when the client left first and `work` was cancelled.
    Raises NotReady when the server stops meanwhile."""
    task = asyncio.create_task(work)
    try:
        await _first_of(task, receive)
    except asyncio.CancelledError:
        raise stopping() from None
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
