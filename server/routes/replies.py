"""JSON replies: an answer's body, or an error's; and the header that names what had no effect."""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from senryu.server.wire.encoding import encoded
from senryu.server.wire.errors import ApiError

IGNORED = "senryu-ignored"


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """Says which fields of the request were accepted and change nothing here, each once; left out
    when all that was asked for is done."""
    listed = ", ".join(dict.fromkeys(names))
    return {IGNORED: listed} if listed else {}


def json_reply(
    body: dict[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        encoded(body), status_code=status, media_type="application/json", headers=headers
    )


def error_reply(error: ApiError, request_id: str) -> Response:
    return json_reply(error.body(request_id), status=error.status, headers=error.headers())
