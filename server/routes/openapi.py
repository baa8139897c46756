"""GET /openapi.json: the API as OpenAPI 3.1, for client generators and for our own fuzzing.

The routes read raw bytes, so FastAPI knows their paths and no more. Bodies come from the very
models that `wire.requests` parses with; errors are those of the contract's section 3.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response
from starlette.routing import BaseRoute

from senryu.server.wire.batches import MOST_REQUESTS
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest

from .reading import check_credential
from .replies import json_reply

router = APIRouter()

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
}
_BATCHES = "/v1/messages/batches"
_FILES = "/v1/files"
_REFERENCE = "#/components/schemas/{model}"

_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
            },
        },
        "request_id": {"type": "string"},
    },
}
_BATCH = {
    "type": "object",
    "required": ["requests"],
    "additionalProperties": False,
    "properties": {
        "requests": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_REQUESTS,
            "items": {
                "type": "object",
                "required": ["custom_id", "params"],
                "additionalProperties": False,
                "properties": {
                    "custom_id": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                    "params": {"$ref": _REFERENCE.format(model="MessagesRequest")},
                },
            },
        }
    },
}
_UPLOAD = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "expires_in_seconds": {"type": "integer", "minimum": 3_600, "maximum": 7_776_000},
    },
}
_RESPONSES = {
    "200": {"description": "The answer; of a request with `stream: true`, as server-sent events."},
    "default": {
        "description": "An error.",
        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}},
    },
}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


_LIFECYCLES = {"type": "array", "items": {"enum": ["active", "deprecated", "retired"]}}
_PAGED = [
    _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}),
    _parameter("after_id", "query", {"type": "string"}),
    _parameter("before_id", "query", {"type": "string"}),
]
_PARAMETERS = {
    ("/v1/models", "GET"): [*_PAGED, _parameter("lifecycle[]", "query", _LIFECYCLES)],
    (_BATCHES, "GET"): _PAGED,
    (_FILES, "GET"): [
        _PAGED[0],
        _parameter("page", "query", {"type": "string"}),
        _parameter("ids[]", "query", {"type": "array", "items": {"type": "string"}}),
    ],
}


@router.get("/openapi.json")
async def describe(request: Request) -> Response:
    check_credential(request)
    return json_reply(description(request.app.routes))


def description(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The whole API, as far as `routes` offer it."""
    _, bodies = models_json_schema(
        [(model, "validation") for model in _BODIES.values()], ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            methods = sorted(route.methods)
            operations = {method.lower(): _operation(route, method) for method in methods}
            paths.setdefault(route.path_format, {}).update(operations)
    return {
        "openapi": "3.1.0",
        "info": {"title": "senryu", "version": "1"},
        "paths": paths,
        "components": {"schemas": {**bodies["$defs"], "Error": _ERROR}},
    }


def _operation(route: APIRoute, method: str) -> dict[str, Any]:
    operation = {
        "operationId": f"{method.lower()}_{route.name}",
        "parameters": [
            *(_parameter(name, "path", {"type": "string"}) for name in route.param_convertors),
            *_PARAMETERS.get((route.path_format, method), []),
        ],
        "responses": _RESPONSES,
    }
    if route.description:
        operation["description"] = route.description
    if method == "POST" and (schema := _body(route.path_format)):
        kind = "multipart/form-data" if route.path_format == _FILES else "application/json"
        content = {kind: {"schema": schema}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _body(path: str) -> dict[str, Any] | None:
    """The schema of what is posted there. That of each request of a batch is looked at only when
    it is its turn."""
    if path == _BATCHES:
        return _BATCH
    if path == _FILES:
        return _UPLOAD
    model = _BODIES.get(path)
    return None if model is None else {"$ref": _REFERENCE.format(model=model.__name__)}
