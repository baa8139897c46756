"""What every route reads off a request: credential, API version, betas, body.

Checks run in the contract's order (4.1): credential, version, size, and only then the JSON.
"""

import asyncio
import gzip
import io
import re
import zlib
from collections.abc import Iterable
from fnmatch import translate

from fastapi import Request

from senryu.server.conversation.terms import CLASSIC, CURRENT
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller, Callers, Role
from senryu.server.wire.errors import (
    AuthenticationFailed,
    BodyTimedOut,
    InvalidRequest,
    PermissionDenied,
    RequestTooLarge,
)

_VERSIONS = {"2023-01-01": CLASSIC, CLASSIC: CLASSIC, CURRENT: CURRENT}

# The betas that the contract names, and the families of them (4.3 and where it asks for one).
_BETAS = (
    "advanced-tool-use-2025-11-20",
    "cache-diagnosis-2026-04-07",
    "claude-code-20250219",
    "compact-2026-01-12",
    "compact-2026-09-04",
    "computer-use-*",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dangerous-tool-use-2026-09-03",
    "effort-2025-11-24",
    "extended-cache-ttl-2025-04-11",
    "fallback-credit-*",
    "files-api-2025-04-14",
    "fine-grained-tool-streaming-2025-05-14",
    "inline-tools-2026-09-15",
    "interleaved-thinking-2025-05-14",
    "mcp-client-*",
    "message-batches-2024-09-24",
    "message-threads-2026-08-12",
    "mid-conversation-tool-changes-2026-07-01",
    "model-context-window-exceeded-2025-08-26",
    "output-128k-2025-02-19",
    "pdfs-2024-09-25",
    "per-turn-control-2026-07-01",
    "prompt-caching-2024-07-31",
    "redact-thinking-2026-02-12",
    "server-side-fallback-*",
    "structured-outputs-2025-11-13",
    "structured-outputs-2025-12-15",
    "thinking-display-updates-2026-08-18",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
)
_KNOWN_BETA = re.compile("|".join(map(translate, _BETAS)))


def check_credential(request: Request) -> Caller:
    """Who asks. Raises AuthenticationFailed unless one of the two headers carries a key."""
    callers: Callers = request.app.state.callers
    if callers.anyone is not None:
        return callers.anyone
    offered = [request.headers.get("x-api-key"), _bearer(request.headers.get("authorization"))]
    keys = [key.encode("latin-1") for key in offered if key]  # the bytes as they were sent
    if not keys:
        raise AuthenticationFailed("x-api-key header is required")
    caller = callers.named(keys)
    if caller is None:
        raise AuthenticationFailed("invalid x-api-key")
    request.state.key_name = caller.name  # for the log
    return caller


def require_role(caller: Caller, *roles: Role) -> None:
    """Raises PermissionDenied where a key of another role asks."""
    if caller.role not in roles:
        raise PermissionDenied(
            f"This API key has the role {caller.role!r}; this needs one of {', '.join(roles)}"
        )


def _bearer(header: str | None) -> str | None:
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def api_version(request: Request, settings: ServerSettings) -> str:
    """The API version the client speaks; without the header, the classic one, which the strict
    do not assume. Raises InvalidRequest."""
    asked = request.headers.get("anthropic-version")
    if asked is None:
        if settings.strict:
            raise InvalidRequest("anthropic-version: header is required")
        return CLASSIC
    return known_version(asked)


def known_version(asked: str) -> str:
    """The version that `asked` stands for. Raises InvalidRequest."""
    if asked not in _VERSIONS:
        raise InvalidRequest(
            f"anthropic-version: {asked!r} is not a valid version; send {CLASSIC} or {CURRENT}"
        )
    return _VERSIONS[asked]


def betas(request: Request, settings: ServerSettings) -> frozenset[str]:
    """The betas that the client speaks. Those that nobody knows mean nothing; the strict refuse
    them. Raises InvalidRequest."""
    headers = request.headers.getlist("anthropic-beta")
    asked = [beta.strip() for header in headers for beta in header.split(",")]
    unknown = frozenset(beta for beta in asked if beta and not _KNOWN_BETA.match(beta))
    request.state.unknown_betas = unknown  # to be counted
    return known_betas(asked, settings)


def known_betas(asked: Iterable[str], settings: ServerSettings) -> frozenset[str]:
    """What stands in `asked`, trimmed. Raises InvalidRequest where the strict refuse some of it."""
    found = frozenset(beta.strip() for beta in asked) - {""}
    if not settings.strict:
        return found
    unknown = [f"`{beta}`" for beta in sorted(found) if not _KNOWN_BETA.match(beta)]
    if unknown:
        # Clients look for these words, and repeat the request without the betas that stand there.
        raise InvalidRequest(
            f"Unexpected value(s) {', '.join(unknown)} for the `anthropic-beta` header. "
            "Leave them out: this server is strict"
        )
    return found


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
