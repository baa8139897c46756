"""What every route reads off a request: credential, API version, body.

Checks run in the contract's order (4.1): credential, version, size, and only then the JSON.
"""

import asyncio
import gzip
import hmac
import io
import zlib

from fastapi import Request

from senryu.server.settings import ServerSettings
from senryu.server.wire.errors import (
    AuthenticationFailed,
    BodyTimedOut,
    InvalidRequest,
    RequestTooLarge,
)

CLASSIC = "2023-06-01"
CURRENT = "2026-10-21"
_VERSIONS = {"2023-01-01": CLASSIC, CLASSIC: CLASSIC, CURRENT: CURRENT}


def check_credential(request: Request, settings: ServerSettings) -> None:
    """Raises AuthenticationFailed unless one of the two headers carries the key."""
    if settings.api_key is None:
        return
    offered = [request.headers.get("x-api-key"), _bearer(request.headers.get("authorization"))]
    keys = [key.encode("latin-1") for key in offered if key]  # the bytes as they were sent
    if not keys:
        raise AuthenticationFailed("x-api-key header is required")
    expected = settings.api_key.encode()
    # Every key is compared, and in constant time: how long it takes tells nothing.
    matches = [hmac.compare_digest(key, expected) for key in keys]
    if not any(matches):
        raise AuthenticationFailed("invalid x-api-key")


def _bearer(header: str | None) -> str | None:
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def api_version(request: Request) -> str:
    """The API version the client speaks; without the header, the classic one."""
    asked = request.headers.get("anthropic-version", CLASSIC)
    if asked not in _VERSIONS:
        raise InvalidRequest(
            f"anthropic-version: {asked!r} is not a valid version; send {CLASSIC} or {CURRENT}"
        )
    return _VERSIONS[asked]


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The body, unpacked. Raises RequestTooLarge before it holds more than the limit."""
    limit = settings.body_limit_bytes
    too_large = RequestTooLarge(
        f"Request exceeds the maximum size of {limit / 2**20:g} MB; send less at once"
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    body = await _received(request, settings.body_seconds, limit, too_large)
    match request.headers.get("content-encoding", "identity").strip().lower():
        case "identity" | "":
            return body
        case "gzip" | "x-gzip":
            return await asyncio.to_thread(_gunzip, body, limit)
        case other:
            raise InvalidRequest(
                f"content-encoding: {other!r} is not supported; send gzip, or no encoding",
                details={"error_code": "request_body_encoding_unsupported"},
            )


async def _received(
    request: Request, seconds: float, limit: int, too_large: RequestTooLarge
) -> bytes:
    """The bytes as they were sent. Raises BodyTimedOut when none come for `seconds`."""
    loop = asyncio.get_running_loop()
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds) as patience:
            async for part in request.stream():
                patience.reschedule(loop.time() + seconds)
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise BodyTimedOut(
            f"The request body stopped arriving: nothing came for {seconds:g} seconds; try again"
        ) from None
    return b"".join(parts)


def _gunzip(body: bytes, limit: int) -> bytes:
    """The members of a gzip file (RFC 1952), one after the other."""
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(str(error)) from None
    if not body:
        raise _corrupt("it is empty")
    if len(plain) > limit:
        raise RequestTooLarge(
            f"Request exceeds the maximum size of {limit / 2**20:g} MB once unpacked",
            details={"error_code": "request_body_too_large_after_decoding"},
        )
    return plain


def _corrupt(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"content-encoding: the body is not valid gzip ({why})",
        details={"error_code": "request_body_encoding_invalid"},
    )
