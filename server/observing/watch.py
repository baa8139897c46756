"""Puts together what is known of each request when it is over: the HTTP side and the answer.

The `Envelope` tells of every HTTP request, whoever answers tells of every answer (`opened`,
`ended`); they meet here by the request's id, and each listener hears of both at once, one time.
Requests of batches are answers without an HTTP side.

What a listener hears has no header but those of W3C trace context, no query, and no text of
prompt or answer unless `log_prompts` asks for it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from senryu.server.tenancy.account import Ended, Opened
from senryu.server.wire.errors import ApiError, NotReady

from .text import Excerpt

log = logging.getLogger("senryu.server")

_PATH_LENGTH = 200
_LEFT = 499
"""No reply was begun: the client went away before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An HTTP request and its reply."""

    request_id: str
    method: str
    path: str
    """As it was sent, without the query, and not all of a long one."""
    route: str | None
    """The pattern that fits the path; None where nothing is found there."""
    status: int
    error_type: str | None
    """What the reply's status stands for in the API (contract 3.1)."""
    key: str | None
    """The name of the key; None where no good one was seen."""
    started_ns: int
    """Since 1970."""
    ended_ns: int
    unknown_betas: frozenset[str] = frozenset()
    traceparent: str | None = None
    tracestate: str | None = None
    asked: str | None = None
    """The bodies, with `log_prompts` alone."""
    answered: str | None = None

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e9


Listener = Callable[[Exchange | None, Ended | None], None]
"""Hears of a request that is over: its HTTP side, its answer, or both."""


class Sighting:
    """A request that is being answered."""

    __slots__ = ("answered", "asked", "began", "request_id", "scope", "started_ns", "status")

    def __init__(self, scope: Scope, request_id: str, *, texts: bool) -> None:
        self.scope = scope
        self.request_id = request_id
        self.status = _LEFT
        self.started_ns = time.time_ns()
        self.began = time.monotonic_ns()
        self.asked = Excerpt() if texts else None
        self.answered = Excerpt() if texts else None

    def listening(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The same two, overheard where the bodies are wanted."""
        asked, answered = self.asked, self.answered
        if asked is None or answered is None:
            return receive, send
        asked.encoded_as(self.scope["headers"])

        async def overheard_receive() -> Message:
            message = await receive()
            asked.add(message.get("body", b""))
            return message

        async def overheard_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.encoded_as(message["headers"])
            answered.add(message.get("body", b""))
            await send(message)

        return overheard_receive, overheard_send


@dataclass(slots=True)
class _Pair:
    """An answer, and the HTTP request that it belongs to when that is over."""

    ended: Ended | None = None
    exchange: Exchange | None = None


class Watch:
    """For the event loop alone."""

    def __init__(self, listeners: Iterable[Listener], *, texts: bool = False) -> None:
        self._listeners = tuple(listeners)
        self._texts = texts
        self._under_way: dict[str, _Pair] = {}

    def begun(self, scope: Scope, request_id: str) -> Sighting:
        """An HTTP request came; `finished` is called with what is given here."""
        return Sighting(scope, request_id, texts=self._texts)

    def finished(self, seen: Sighting) -> None:
        """It is over. Its answer may still be: a client that left is noticed here first."""
        exchange = _exchange(seen)
        pair = self._under_way.get(exchange.request_id)
        if pair is None:
            self._tell(exchange, None)
        elif pair.ended is None:
            pair.exchange = exchange
        else:
            del self._under_way[exchange.request_id]
            self._tell(exchange, pair.ended)

    def opened(self, told: Opened) -> None:
        if told.tier != "batch":
            self._under_way[told.request_id] = _Pair()

    def ended(self, told: Ended) -> None:
        pair = self._under_way.get(told.opened.request_id)
        if pair is None or told.opened.tier == "batch":
            self._tell(None, told)
        elif pair.exchange is None:
            pair.ended = told
        else:
            del self._under_way[told.opened.request_id]
            self._tell(pair.exchange, told)

    def _tell(self, exchange: Exchange | None, ended: Ended | None) -> None:
        for listener in self._listeners:
            try:
                listener(exchange, ended)
            except Exception:  # whoever only watches breaks nothing
                log.exception("a request could not be told of")


def gave_way(ended: Ended) -> bool:
    """Whether a batch's request made room for others, or for an engine that starts again: it is
    tried once more, and nothing is wrong."""
    failed = ended.state == "failed" and ended.opened.tier == "batch"
    return failed and ended.error_type == NotReady.type


def error_type(exchange: Exchange | None, ended: Ended | None) -> str | None:
    """What went wrong, in the API's words: for a stream that broke its own, else the reply's."""
    if ended is not None and gave_way(ended):
        return None
    broke = ended.error_type if ended is not None and ended.state == "failed" else None
    return broke or (exchange.error_type if exchange is not None else None)


def _exchange(seen: Sighting) -> Exchange:
    scope = seen.scope
    state = scope.get("state", {})
    headers = {
        name: value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"tracestate")
    }
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return Exchange(
        request_id=seen.request_id,
        method=scope["method"],
        path=path.partition(b"?")[0][:_PATH_LENGTH].decode("latin-1"),
        route=getattr(scope.get("route"), "path", None),
        status=seen.status,
        error_type=_TYPES.get(seen.status),
        key=state.get("key_name"),
        started_ns=seen.started_ns,
        ended_ns=seen.started_ns + time.monotonic_ns() - seen.began,
        unknown_betas=state.get("unknown_betas", frozenset()),
        traceparent=headers.get(b"traceparent"),
        tracestate=headers.get(b"tracestate"),
        asked=None if seen.asked is None else seen.asked.text,
        answered=None if seen.answered is None else seen.answered.text,
    )


def _kinds(kind: type[ApiError]) -> Iterable[type[ApiError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


_TYPES = {kind.status: kind.type for kind in _kinds(ApiError)}
