"""Signs of life: /health for operators, / and /api/hello for clients that knock first."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.answering import blamed
from senryu.server.engine.base import Engine, EngineGone

from .replies import json_reply

router = APIRouter()


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> Response:
    """200 while a request could be served. No credential needed."""
    engine: Engine = request.app.state.engine
    if not await engine.healthy():
        raise blamed(EngineGone(engine.back_in()))
    return json_reply({"status": "ok", "model": engine.card.model})


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/api/hello", methods=["GET", "HEAD"])
async def hello() -> Response:
    """Claude Code knocks here at start, without credentials, and wants no body."""
    return Response()
