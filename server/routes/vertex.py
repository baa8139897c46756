"""The Messages API as Google's Vertex AI wraps it: other paths for the same answers (contract 8).

The model stands in the path and the API version in the body; the rest is `routes.messages`.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.answering import Spoken
from senryu.server.conversation.terms import CLASSIC
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller
from senryu.server.wire.encoding import encoded
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import read_object

from .messages import answer, counted, task
from .reading import (
    api_version,
    betas,
    check_credential,
    known_betas,
    known_version,
    read_body,
)

_MODELS = "/projects/{project}/locations/{location}/publishers/anthropic/models"
_OWN_CLASSIC = "vertex-2023-10-16"

router = APIRouter(include_in_schema=False)


# Clients keep `/v1` in their base address, where it may be left out.
@router.post("/v1" + _MODELS + "/count-tokens:rawPredict")
@router.post(_MODELS + "/count-tokens:rawPredict")
async def count_tokens(request: Request) -> Response:
    """The model that counts is named in the body."""
    body, spoken = await _received(request, {})
    return await counted(request, body, spoken)


@router.post("/v1" + _MODELS + "/{model:path}:rawPredict")
@router.post(_MODELS + "/{model:path}:rawPredict")
async def create_message(request: Request, model: str) -> Response:
    body, spoken = await _received(request, {"model": model})
    return await answer(request, body, spoken)


@router.post("/v1" + _MODELS + "/{model:path}:streamRawPredict")
@router.post(_MODELS + "/{model:path}:streamRawPredict")
async def stream_message(request: Request, model: str) -> Response:
    body, spoken = await _received(request, {"model": model, "stream": True})
    return await answer(request, body, spoken)


async def _received(request: Request, stated: dict[str, Any]) -> tuple[bytes, Spoken]:
    """The body as the Messages API has it, with what the path has `stated`."""
    settings: ServerSettings = request.app.state.settings
    caller = check_credential(request)
    body = await read_body(request, settings)
    value = await asyncio.to_thread(read_object, body)
    spoken = _spoken(request, settings, value, caller)
    return await asyncio.to_thread(encoded, value | stated), spoken


def _spoken(
    request: Request, settings: ServerSettings, body: dict[str, Any], caller: Caller
) -> Spoken:
    """Takes version and betas out of `body`; what it lacks may stand in the headers."""
    version, named = body.pop("anthropic_version", None), body.pop("anthropic_beta", None) or []
    if not isinstance(version, str | None):
        raise InvalidRequest("anthropic_version: Input should be a valid string")
    if not (isinstance(named, list) and all(isinstance(beta, str) for beta in named)):
        raise InvalidRequest("anthropic_beta: Input should be a valid list of strings")
    return Spoken(
        version=api_version(request, settings)
        if version is None
        else known_version(CLASSIC if version == _OWN_CLASSIC else version),
        betas=betas(request, settings) | known_betas(named, settings),
        caller=caller,
        request_id=request.scope["state"]["request_id"],
        task=task(request),
    )
