"""Puts the server together: routes, the error handlers, who may ask, an id on every response.

`build_app` takes an open engine and owns nothing: whoever opened the engine closes it.
"""

import asyncio
import logging
from collections.abc import Sequence
from types import ModuleType

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from senryu.server.conversation.signing import Signer
from senryu.server.engine.base import Engine, EngineCard
from senryu.server.identifiers import new_id
from senryu.server.media.local import media_opener
from senryu.server.observing.opening import Observing, open_observing
from senryu.server.observing.watch import Watch
from senryu.server.past_prompts import PastPrompts
from senryu.server.routes import (
    batches,
    files,
    health,
    messages,
    metrics,
    models,
    openapi,
    organizations,
    vertex,
)
from senryu.server.routes.origins import Cors, Origins
from senryu.server.routes.replies import error_reply
from senryu.server.routes.streaming import stopping
from senryu.server.settings import ServerSettings
from senryu.server.signing_key import read_secret
from senryu.server.tenancy.callers import Caller, Callers
from senryu.server.tenancy.desk import Desk
from senryu.server.tenancy.limiter import Limiter
from senryu.server.tenancy.prices import Prices
from senryu.server.tenancy.tenancy import Tenancy, without_database
from senryu.server.tenancy.visit import Rules
from senryu.server.traffic import Traffic
from senryu.server.warm_up import Beginnings
from senryu.server.wire.errors import (
    ApiError,
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)

ADMIN_ROOMS = [metrics, organizations]

log = logging.getLogger("senryu.server")


def build_app(
    settings: ServerSettings,
    engine: Engine,
    beginnings: Beginnings | None = None,
    traffic: Traffic | None = None,
    observing: Observing | None = None,
    tenancy: Tenancy | None = None,
) -> FastAPI:
    """The whole API over `engine`. `beginnings` notes how prompts begin, `traffic` who waits;
    without `tenancy` nothing is kept."""
    app = FastAPI(
        title="senryu", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.settings = settings
    app.state.engine = engine
    secret = read_secret(settings)
    app.state.signer = Signer(secret)
    app.state.past_prompts = PastPrompts()
    app.state.beginnings = beginnings
    app.state.traffic = traffic or Traffic()
    observing = observing or open_observing(settings)
    app.state.metrics = observing.metrics
    tenancy = tenancy or without_database(settings, secret)
    app.state.callers = tenancy.callers
    kept = tenancy.kept
    app.state.store, app.state.files, app.state.batches = (
        (kept.store, kept.files, kept.batches) if kept else (None, None, None)
    )
    app.state.rules = rules = Rules(
        desk=Desk(
            seats=engine.card.seats,
            batch_seats=batch_seats(settings, engine.card),
            max_queued=settings.max_queued,
            max_queued_tokens=settings.max_queued_tokens,
        ),
        limiter=tenancy.limiter,
        prices=Prices(settings.prices),
        ledger=kept.ledger if kept else None,
        observers=observing.observers,
        seconds=settings.answer_seconds,
    )
    app.state.desk = rules.desk
    app.state.open_media = media_opener(settings, window=engine.card.window)
    app.state.watch = observing.watch
    rooms = [messages, models, batches, files, vertex, openapi, health]
    if settings.admin_port is None:
        rooms += ADMIN_ROOMS
    _furnish(app, rooms)
    return app


def build_admin_app(public: FastAPI) -> FastAPI:
    """What is the operator's, of the same server: for a port of its own."""
    app = FastAPI(
        title="senryu", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state = public.state
    _furnish(app, [*ADMIN_ROOMS, health])
    return app


def batch_seats(settings: ServerSettings, card: EngineCard) -> int:
    """Requests of batches that the engine works on at one time."""
    return settings.batch_streams or max(1, card.seats // 2)


def _furnish(app: FastAPI, rooms: Sequence[ModuleType]) -> None:
    """Routes, error handlers, and what holds for every request."""
    state = app.state
    for room in rooms:
        app.include_router(room.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    # The last one added is the first to hear of a request.
    allowed = state.settings.cors_origins
    callers: Callers = state.callers
    app.add_middleware(Origins, allowed=allowed, keyless=lambda: callers.anyone is not None)
    app.add_middleware(Envelope, watch=state.watch, limiter=state.rules.limiter)
    if allowed:
        app.add_middleware(Cors, allowed=allowed)


class Envelope:
    """What holds for every request: it has an id, in its state for error bodies and on its
    response as a header; our own bugs are logged and answered with that id; and when it is over,
    the log, the counters and the traces are told.

    Our bugs have no exception handler, for those of Starlette raise the error once more, and the
    HTTP server would log it again.
    """

    def __init__(self, app: ASGIApp, *, watch: Watch, limiter: Limiter) -> None:
        self._app = app
        self._watch = watch
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        header = (b"request-id", request_id.encode())
        seen = self._watch.begun(scope, request_id)
        receive, send = seen.listening(receive, send)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                seen.status = message["status"]
                message["headers"] = [*message["headers"], header, *self._limits(scope)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops, and this request had not begun to answer
            if started:
                raise
            await error_reply(stopping(), request_id)(scope, receive, send_with_id)
        except Exception:
            if started:
                raise  # the HTTP server logs it and cuts the connection: no end is not a good end
            log.exception("request %s failed", request_id)
            reply = error_reply(EngineFailed("Internal server error"), request_id)
            await reply(scope, receive, send_with_id)
        finally:
            self._watch.finished(seen)

    def _limits(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What is left of the limits of whoever asks for an answer (contract 3.3)."""
        caller: Caller | None = scope["state"].get("limited")
        if caller is None:
            return []
        told = self._limiter.headers(caller)
        return [(name.encode(), value.encode()) for name, value in told.items()]


def _request_id(request: Request) -> str:
    request_id: str = request.scope["state"]["request_id"]
    return request_id


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_reply(error, _request_id(request))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, or a known one with another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        path, method = request.url.path, request.method
        refusal: ApiError = MethodNotAllowed(f"{method} is not allowed on {path}")
        reply = error_reply(refusal, _request_id(request))
        reply.headers.update(error.headers or {})
        return reply
    if error.status_code == 404:
        return error_reply(NotFound(f"Not found: {request.url.path}"), _request_id(request))
    return error_reply(InvalidRequest(str(error.detail)), _request_id(request))


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
