"""JSON replies: an answer's body, or an error's."""

from typing import Any

import orjson
from starlette.responses import Response

from senryu.server.wire.errors import ApiError


def json_reply(body: dict[str, Any], *, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


def error_reply(error: ApiError, request_id: str) -> Response:
    reply = json_reply(error.body(request_id), status=error.status)
    reply.headers.update(error.headers())
    return reply
