"""Puts the server together: routes, the error handlers, who may ask, an id on every response.

`build_app` takes an open engine and owns nothing: whoever opened the engine closes it.
"""

import asyncio
import logging

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from senryu.server.conversation.signing import Signer
from senryu.server.engine.base import Engine
from senryu.server.identifiers import new_id
from senryu.server.media.local import media_opener
from senryu.server.observing.opening import Observing, open_observing
from senryu.server.observing.watch import Watch
from senryu.server.past_prompts import PastPrompts
from senryu.server.routes import batches, files, health, messages, metrics, models, openapi, vertex
from senryu.server.routes.origins import Cors, Origins
from senryu.server.routes.replies import error_reply
from senryu.server.routes.streaming import stopping
from senryu.server.settings import ServerSettings
from senryu.server.signing_key import read_secret
from senryu.server.tenancy.callers import Callers
from senryu.server.tenancy.tenancy import make_rules
from senryu.server.traffic import Traffic
from senryu.server.warm_up import Beginnings
from senryu.server.wire.errors import (
    ApiError,
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)

log = logging.getLogger("senryu.server")


def build_app(
    settings: ServerSettings,
    engine: Engine,
    beginnings: Beginnings | None = None,
    traffic: Traffic | None = None,
    observing: Observing | None = None,
) -> ASGIApp:
    """The whole API over `engine`. `beginnings` notes how prompts begin, `traffic` who waits."""
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
    app.state.callers = Callers(settings, secret)
    app.state.rules = make_rules(settings, engine.card, None, observing.observers)
    app.state.desk = app.state.rules.desk
    app.state.limiter = app.state.rules.limiter
    app.state.observers = app.state.rules.observers
    for name in ("store", "ledger", "files", "batches"):
        setattr(app.state, name, None)
    app.state.open_media = media_opener(settings, window=engine.card.window)
    for room in (messages, models, batches, files, vertex, openapi, health, metrics):
        app.include_router(room.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    # The last one added is the first to hear of a request.
    allowed = settings.cors_origins
    app.add_middleware(Origins, allowed=allowed, keyless=settings.keyless)
    app.add_middleware(Envelope, watch=observing.watch)
    if allowed:
        app.add_middleware(Cors, allowed=allowed)
    return app


class Envelope:
    """What holds for every request: it has an id, in its state for error bodies and on its
    response as a header; our own bugs are logged and answered with that id; and when it is over,
    the log, the counters and the traces are told.

    Our bugs have no exception handler, for those of Starlette raise the error once more, and the
    HTTP server would log it again.
    """

    def __init__(self, app: ASGIApp, *, watch: Watch) -> None:
        self._app = app
        self._watch = watch

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
                message["headers"] = [*message["headers"], header]
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
