"""HTTP/1.1 as we take it from strangers: uvicorn's protocol, with an end to what it waits for.

uvicorn waits for ever for the rest of a request's head, whatever its length, and for a client to
read. Here a head has a greatest length and a time to come in, and who reads nothing of an answer
that is ready is hung up on. How long a body may be and may be silent is the routes' concern.
"""

import asyncio
import fcntl
import math
import termios
from array import array
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .identifiers import new_id
from .settings import ServerSettings
from .wire.encoding import encoded
from .wire.errors import ApiError, BodyTimedOut, HeadTooLarge, InvalidRequest

# What is refused may still be on its way. To hang up at once would throw the answer away with it.
_FAREWELL_SECONDS = 2.0
_AHEAD = 16 * 1024  # bytes that wait for a client beside those that the kernel holds
_BETWEEN_NAME_AND_VALUE = len(": \r\n")


def protocol_for(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's `http`, with the limits of these settings."""

    class Limited(_Limited):
        head_seconds = settings.head_seconds
        head_limit = int(settings.head_limit_kb * 2**10)

    return Limited


class _Limited(HttpToolsProtocol):
    head_seconds: float
    head_limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True  # from the first byte of the connection on
        self._begun = False  # whether any of a head has come
        self._head_bytes = 0
        self._refusal: ApiError | None = None  # why the parser was told to stop
        self._refused = False
        self._farewell: asyncio.TimerHandle | None = None
        self._unsent_timer: asyncio.TimerHandle | None = None
        self._unsent = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # An answer is not made faster than its client reads: what is made ahead lies in memory, for
        # each of hundreds of streams.
        transport.set_write_buffer_limits(high=_AHEAD)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._farewell, self._unsent_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:  # it is read, so that whoever sends it gets to reading our answer
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.head_limit:
            self._refuse(self._too_large())
        elif self._is_idle:
            # Also when it is no head that comes, but blank lines, or the rest of a body that
            # nobody waits for: neither may go on for ever.
            self._await_head()

    # --- the head of a request -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = self._begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        # What one read brought was not counted as it came; this is all of it.
        size = len(self.url) + sum(
            len(name) + len(value) + _BETWEEN_NAME_AND_VALUE for name, value in self.headers
        )
        if size > self.head_limit:
            self._refusal = self._too_large()
            raise _Refused
        self._unsent = math.inf
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Called for what the parser cannot read, or was told to stop at."""
        self._refuse(
            self._refusal
            or InvalidRequest("The request is not valid HTTP/1.1; send it with an HTTP client")
        )

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None and not self._refused:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._begun:
            self._refuse(
                BodyTimedOut(
                    "The head of the request did not arrive within "
                    f"{self.head_seconds:g} seconds; send it again"
                )
            )
        else:
            self._hang_up()

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            "The address and headers of the request exceed the maximum size of "
            f"{self.head_limit / 2**10:g} KB; send less in them"
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer, and hang up soon. An answer that is under way is not spoilt with another."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if not self._is_idle:
            self._hang_up()
            return
        request_id = new_id("req")
        body = encoded(error.body(request_id))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "request-id": request_id,
            **error.headers(),
            "connection": "close",
        }
        head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._farewell = self.loop.call_later(_FAREWELL_SECONDS, self.transport.abort)

    # --- who reads slowly ----------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = math.inf  # some of it was read

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_unsent()

    def _hang_up(self) -> None:
        """What is on its way to the client may arrive first."""
        self.transport.close()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        if self._unsent_timer is None and self.transport.get_write_buffer_size():
            self._unsent = _unread(self.transport)
            self._unsent_timer = self.loop.call_later(self.head_seconds, self._look_at_unsent)

    def _look_at_unsent(self) -> None:
        """Cut off who has read nothing since we last looked, while nothing was added to it."""
        self._unsent_timer = None
        waits = self.flow.write_paused or self._is_idle or self.transport.is_closing()
        if waits and self.transport.get_write_buffer_size() and self._has_read_nothing():
            self.transport.abort()
        else:
            self._watch_unsent()

    def _has_read_nothing(self) -> bool:
        return _unread(self.transport) >= self._unsent


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the client's machine has not taken yet: ours, and those that the kernel holds. It
    asks us for more only when megabytes of those are gone, which may take a slow line minutes."""
    held = array("i", [0])
    with suppress(OSError, AttributeError, ValueError):  # it is closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
    return transport.get_write_buffer_size() + held[0]


class _Refused(Exception):
    """Ends the parser's work on a request."""
