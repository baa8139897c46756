"""A long request body on its way to the disk, and how it is read from there.

In memory there is a megabyte of it at a time. A packed one is unpacked as it is read.
"""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from tempfile import SpooledTemporaryFile

from fastapi import Request

from senryu.server.wire.errors import BodyTimedOut, InvalidRequest, RequestTooLarge
from senryu.server.wire.long_json import Read

_IN_MEMORY = 1 << 20


@asynccontextmanager
async def spooled(request: Request, *, limit: int, seconds: float) -> AsyncIterator[Read]:
    """The body once all of it is here, to be read piece by piece. Raises RequestTooLarge,
    BodyTimedOut where nothing comes for `seconds`, and InvalidRequest; what is wrong with a packed
    body is raised when it is read."""
    too_large = RequestTooLarge(
        f"Request exceeds the maximum size of {limit / 2**20:g} MB; send less at once"
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise InvalidRequest(
            f"content-encoding: {encoding!r} is not supported; send gzip, or no encoding",
            details={"error_code": "request_body_encoding_unsupported"},
        )
    # It is on the disk only once it is long, and has no name there: a killed server leaves nothing.
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        await _spool(request, file, limit, seconds, too_large)
        size = file.tell()
        file.seek(0)
        yield _unpacking(file, size, limit) if encoding in ("gzip", "x-gzip") else file.read


async def _spool(
    request: Request,
    file: "SpooledTemporaryFile[bytes]",
    limit: int,
    seconds: float,
    too_large: RequestTooLarge,
) -> None:
    loop = asyncio.get_running_loop()
    size, held = 0, bytearray()
    try:
        async with asyncio.timeout(seconds) as patience, aclosing(request.stream()) as parts:
            async for part in parts:
                size += len(part)
                if size > limit:
                    raise too_large
                held += part
                if len(held) >= _IN_MEMORY:
                    patience.reschedule(None)  # what the disk takes is not the client's time
                    await asyncio.to_thread(file.write, bytes(held))
                    held.clear()
                patience.reschedule(loop.time() + seconds)
    except TimeoutError:
        raise BodyTimedOut(
            f"The request body stopped arriving: nothing came for {seconds:g} seconds; try again"
        ) from None
    file.write(held)


def _unpacking(file: "SpooledTemporaryFile[bytes]", size: int, limit: int) -> Read:
    """Reads the members of a gzip file (RFC 1952), one after the other."""
    packed = gzip.GzipFile(fileobj=file, mode="rb")
    unpacked = 0

    def read(most: int) -> bytes:
        nonlocal unpacked
        if not size:
            raise _corrupt("it is empty")
        try:
            piece = packed.read(most)
        except (OSError, EOFError, zlib.error) as error:
            raise _corrupt(str(error)) from None
        unpacked += len(piece)
        if unpacked > limit:
            raise RequestTooLarge(
                f"Request exceeds the maximum size of {limit / 2**20:g} MB once unpacked",
                details={"error_code": "request_body_too_large_after_decoding"},
            )
        return piece

    return read


def _corrupt(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"content-encoding: the body is not valid gzip ({why})",
        details={"error_code": "request_body_encoding_invalid"},
    )
