"""What every route reads off a request: credential, API version, body.

Checks run in the contract's order (4.1): credential, version, size, and only then the JSON.
"""

import hmac
import zlib

from fastapi import Request

from senryu.server.settings import ServerSettings
from senryu.server.wire.errors import AuthenticationFailed, InvalidRequest, RequestTooLarge

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
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    body = b"".join(parts)
    match request.headers.get("content-encoding", "identity").strip().lower():
        case "identity" | "":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body, limit)
        case other:
            raise InvalidRequest(
                f"content-encoding: {other!r} is not supported; send gzip, or no encoding",
                details={"error_code": "request_body_encoding_unsupported"},
            )


def _gunzip(body: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(
            f"content-encoding: the body is not valid gzip ({error})",
            details={"error_code": "request_body_encoding_invalid"},
        ) from None
    if len(plain) > limit:
        raise RequestTooLarge(
            f"Request exceeds the maximum size of {limit / 2**20:g} MB once unpacked",
            details={"error_code": "request_body_too_large_after_decoding"},
        )
    if not unpacker.eof or unpacker.unused_data:
        what = "has more behind its end" if unpacker.eof else "is cut short"
        raise InvalidRequest(
            f"content-encoding: the gzip body {what}",
            details={"error_code": "request_body_encoding_invalid"},
        )
    return plain
