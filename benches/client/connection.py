"""HTTP/1.1 to one server: connections that are kept, one request at a time on each.

Comes in: a request's bytes, and a `Reply` that takes what comes of it. Goes out: the filled reply,
or a `Fault`. Sockets of the event loop and a parser in C, with nothing between them: at 50,000
frames a second a client of layers would be what is measured. Of the bodies it knows nothing.
"""

import asyncio
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

from .reading import Reading
from .sample import Kind

_LONGEST_HEAD = 2**18
_LONGEST_TEXT = 2**23
_LONGEST_WORDS = 2**16
"""Bytes that are kept of a body that was not to be a text: enough for the words of an error."""
_LINGER = 1.0
"""Seconds that a server gets to end its reply after the answer has, so that the connection can be
used again."""


class Fault(Exception):
    """A request came to nothing, or not to its end. The text is one sentence."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Unanswered(Fault):
    """The connection closed before a byte of the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is."""

    host: str
    port: int
    tls: bool
    prefix: str = ""
    """What stands before every path."""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises ValueError with a sentence. OpenAI's clients are given addresses with /v1."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address; write it like http://127.0.0.1:8765")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (443 if tls else 80),
            tls=tls,
            prefix=parts.path.rstrip("/").removesuffix("/v1"),
        )

    def request(
        self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes = b""
    ) -> bytes:
        """The bytes of a request. Raises ValueError where a header cannot be sent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.tls else 80)
        named = [
            ("host", host if usual else f"{host}:{self.port}"),
            ("user-agent", "senryu-bench"),
            ("accept-encoding", "identity"),  # packed bytes come late
            *headers,
        ]
        if body:
            named += [("content-type", "application/json"), ("content-length", str(len(body)))]
        for name, value in named:
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"the header {name} holds a character that none may hold")
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", *(f"{k}: {v}" for k, v in named)]
        return "\r\n".join([*lines, "", ""]).encode() + body


class Reply:
    """What comes of one request, filled in as it comes."""

    def __init__(self, reader: Reading | None = None) -> None:
        self.sent: float | None = None
        self.status = 0
        """0 until the head has come."""
        self.headers: dict[str, str] = {}
        self.text = b""
        """A body that is no event stream, or its beginning."""
        self.streams = False
        self.over = False
        """Nothing that still comes matters."""
        self._reader = reader

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers
        kind = headers.get("content-type", "text/event-stream")
        self.streams = (
            status == 200
            and kind.strip().lower().startswith("text/event-stream")
            and not self.packed
        )

    @property
    def packed(self) -> bool:
        """The body is compressed."""
        return self.headers.get("content-encoding", "identity").strip().lower() != "identity"

    def take(self, data: bytes, at: float) -> bool:
        """More of the body; whether it is over now."""
        if self.streams and self._reader is not None:
            self._reader.feed(data, at)
            self.over = self._reader.over
        else:
            longest = _LONGEST_TEXT if self._reader is None else _LONGEST_WORDS
            self.text = (self.text + data)[:longest]
            self.over = len(self.text) == longest
        return self.over


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # what the parser calls for each chunk: no function
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
        self._reply = Reply()
        self._timer: asyncio.TimerHandle | None = None
        self._patience = 0.0
        self._begin()

    def _begin(self) -> None:
        """Before a reply."""
        self._heard = time.perf_counter()
        self._headers: dict[str, str] = {}
        self._before_body = 0  # bytes that came while there was no head
        self._to_the_end = False  # the body has no length: it ends with the connection
        self._whole = False
        self._kept = 0  # pieces that are of this reply
        self._reusable = False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return (
            self._reusable
            and not self.lost.done()
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def abort(self) -> None:
        self._reusable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes, reply: Reply, patience: float) -> None:
        """Sends a request and waits until its reply is whole, or over. Raises Fault."""
        if self._transport is None or self.lost.done():
            raise Unanswered("unreachable", "the connection was closed at once")
        self._begin()
        self._reply, self._patience = reply, patience
        self._done = self._loop.create_future()
        reply.sent = self._heard
        self._transport.write(request)
        self._timer = self._loop.call_later(patience, self._look)
        try:
            await self._done
        except BaseException:
            self.abort()
            raise
        finally:
            self._timer.cancel()
            self._done = None

    def _look(self) -> None:
        """Whether something came lately. One timer for a reply: one for a read would cost more
        than reading."""
        left = self._heard + self._patience - time.perf_counter()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._end(Fault("silent", f"nothing came for {self._patience:g} seconds"))

    def _end(self, fault: Fault | None = None) -> None:
        if self._done is not None and not self._done.done():
            if fault:
                self._done.set_exception(fault)
            else:
                self._done.set_result(None)

    def _leave(self) -> None:
        self.abort()
        self._end()

    # --- what the event loop tells -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._done is None:  # nobody asked
            self.abort()
            return
        self._heard = now
        fault = None
        if not self._reply.status:
            self._before_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            fault = Fault("garbled", f"what came is no HTTP: {error}")
        reply = self._reply
        if pieces := self._pieces:
            if self._whole:
                del pieces[self._kept :]
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if not reply.over and reply.take(body, now) and not self._whole and self._timer:
                self._timer.cancel()
                self._timer = self._loop.call_later(_LINGER, self._leave)
        if self._whole:
            self._reusable = self._reusable and fault is None
            self._end()
        elif fault:
            self._end(fault)
        elif not reply.status and self._before_body > _LONGEST_HEAD:
            self._end(Fault("garbled", f"a head of more than {_LONGEST_HEAD:,} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)
        reason = f": {exc}" if exc else ""
        if self._reply.over or (self._to_the_end and exc is None):
            self._end()
        elif self._reply.status:
            self._end(Fault("cut off", f"the connection closed within the reply{reason}"))
        elif self._before_body:
            self._end(Fault("cut off", f"the connection closed within the reply's head{reason}"))
        else:
            self._end(Unanswered("unreachable", f"the connection closed without a reply{reason}"))

    # --- what the parser tells -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._whole:  # one reply too many
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._whole:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._whole:
            return
        if status < 200:  # only a word before the reply
            self._headers = {}
            return
        headers = dict(self._headers)  # what comes after the body is none of them
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._to_the_end = not chunked and "content-length" not in headers
        self._reply.begin(status, headers)

    def on_message_complete(self) -> None:
        if self._reply.status and not self._whole:
            self._whole, self._kept = True, len(self._pieces)
            self._reusable = self._parser.should_keep_alive()


class Connections:
    """To one server, as many as are wanted at a time. What is free is used first."""

    def __init__(self, address: Address, *, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._tls = ssl.create_default_context() if address.tls else None
        self._free: list[Connection] = []
        self._open: set[Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._open:
            connection.abort()
        if self._open:
            await asyncio.wait([each.lost for each in self._open], timeout=_LINGER)

    async def ask(self, request: bytes, reply: Reply) -> None:
        """Raises Fault. A server may close a connection that was kept just when it is used again:
        that is no failure of the request, and it is sent once more on a new one."""
        if connection := self._take():
            with suppress(Unanswered):
                await self._exchange(connection, request, reply)
                return
        await self._exchange(await self._connected(), request, reply)

    async def _exchange(self, connection: Connection, request: bytes, reply: Reply) -> None:
        try:
            await connection.exchange(request, reply, self._patience)
        finally:
            if connection.usable:
                self._free.append(connection)
            else:
                connection.abort()

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return None

    async def _connected(self) -> Connection:
        address = self._address
        try:
            async with asyncio.timeout(self._patience):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, address.host, address.port, ssl=self._tls
                )
        except TimeoutError as error:
            raise Fault(
                "unreachable", f"no connection within {self._patience:g} seconds"
            ) from error
        except (OSError, UnicodeError) as error:
            raise Fault("unreachable", str(error) or type(error).__name__) from error
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        return connection
