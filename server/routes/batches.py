"""The Message Batches API (contract 1.12): /v1/messages/batches."""

import re

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from senryu.server.answering import Spoken
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.batches import Batches
from senryu.server.wire.batches import Batch, batch_body, deleted_body
from senryu.server.wire.errors import InvalidRequest, NotFound

from .messages import task
from .reading import api_version, betas, check_credential
from .replies import json_reply
from .spooling import spooled

router = APIRouter()

_PATH = "/v1/messages/batches"
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


@router.post(_PATH)
async def create_batch(request: Request) -> Response:
    settings: ServerSettings = request.app.state.settings
    batches, spoken = _asked(request)
    limit = int(settings.batch_limit_mb * 2**20)
    async with spooled(request, limit=limit, seconds=settings.body_seconds) as read:
        batch = await batches.create(read, spoken)
    return json_reply(_body(request, batch))


@router.get(_PATH)
async def list_batches(request: Request) -> Response:
    batches, spoken = _asked(request)
    query = request.query_params
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise InvalidRequest("after_id: cannot be combined with before_id")
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= 1000):
        raise InvalidRequest("limit: Input should be an integer from 1 to 1000")
    page, more = await batches.page(
        spoken.caller, limit=int(limit), after=after or None, before=before or None
    )
    return json_reply(
        {
            "data": [_body(request, batch) for batch in page],
            "has_more": more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


@router.get(_PATH + "/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    batches, spoken = _asked(request)
    return json_reply(_body(request, await batches.get(batch_id, spoken.caller)))


@router.delete(_PATH + "/{batch_id}")
async def delete_batch(request: Request, batch_id: str) -> Response:
    batches, spoken = _asked(request)
    await batches.delete(batch_id, spoken.caller)
    return json_reply(deleted_body(batch_id))


@router.post(_PATH + "/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    batches, spoken = _asked(request)
    return json_reply(_body(request, await batches.cancel(batch_id, spoken.caller)))


@router.get(_PATH + "/{batch_id}/results")
async def batch_results(request: Request, batch_id: str) -> Response:
    batches, spoken = _asked(request)
    lines = await batches.results(batch_id, spoken.caller)
    return StreamingResponse(lines, media_type="application/x-jsonl")


def _asked(request: Request) -> tuple[Batches, Spoken]:
    """What every call wants; headers are checked in the contract's order (4.1)."""
    settings: ServerSettings = request.app.state.settings
    spoken = Spoken(
        caller=check_credential(request),
        version=api_version(request, settings),
        betas=betas(request, settings),
        request_id=request.scope["state"]["request_id"],
        task=task(request),
    )
    batches: Batches | None = request.app.state.batches
    if batches is None:
        raise NotFound("This server keeps no batches: its setting `database` is none")
    return batches, spoken


def _body(request: Request, batch: Batch) -> dict[str, object]:
    return batch_body(batch, f"{_origin(request)}{_PATH}/{batch.id}/results")


def _origin(request: Request) -> str:
    """The address that the client used, as a proxy tells it; nothing where what it tells is none:
    clients join a bare path to the address that they have."""
    headers = request.headers
    scheme = _first(headers.get("x-forwarded-proto")) or request.url.scheme
    host = _first(headers.get("x-forwarded-host")) or headers.get("host", "")
    prefix = _first(headers.get("x-forwarded-prefix")).rstrip("/")
    whole = scheme in ("http", "https") and _HOST.fullmatch(host) and _PREFIX.fullmatch(prefix)
    return f"{scheme}://{host}{prefix}" if whole else ""


def _first(header: str | None) -> str:
    """What the proxy that is nearest to the client has written."""
    return (header or "").partition(",")[0].strip()
