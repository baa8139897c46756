"""GET /v1/models and /v1/models/{id}."""

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from senryu.server.engine.base import Engine, EngineCard
from senryu.server.naming import resolve_model
from senryu.server.settings import ServerSettings
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.models import model_body

from .reading import check_credential
from .replies import json_reply

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    check_credential(request)
    query = request.query_params
    if "after_id" in query and "before_id" in query:
        raise InvalidRequest("after_id: cannot be combined with before_id")
    limit = query.get("limit", "20")
    if not (limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= 1000):
        raise InvalidRequest("limit: Input should be an integer from 1 to 1000")
    # One model: whatever lies after it or before it is nothing.
    past = engine.card.model in (query.get("after_id"), query.get("before_id"))
    data = [] if past or not _active_is_asked_for(query) else [_body(request, engine.card)]
    only = engine.card.model if data else None
    return json_reply({"data": data, "has_more": False, "first_id": only, "last_id": only})


def _active_is_asked_for(query: QueryParams) -> bool:
    """What we serve is active: a list of the deprecated or the retired is empty."""
    asked = query.getlist("lifecycle[]") + query.getlist("lifecycle")
    for index, lifecycle in enumerate(asked):
        if lifecycle not in ("active", "deprecated", "retired"):
            raise InvalidRequest(
                f"lifecycle.{index}: Input should be 'active', 'deprecated' or 'retired'"
            )
    return not asked or "active" in asked


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(request: Request, model_id: str) -> Response:
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    check_credential(request)
    resolve_model(model_id, settings, engine.card)
    return json_reply(_body(request, engine.card))


def _body(request: Request, card: EngineCard) -> dict[str, object]:
    return model_body(
        card.model,
        window=card.window,
        created_at=card.created_at,
        thinks=card.dialect.thought is not None,
        sees=card.sees,
        batches=request.app.state.batches is not None,
    )
