"""Reads an upload (multipart/form-data, RFC 7578) while it arrives, straight to the disk.

What is in memory of it at one time is a megabyte, whatever its size. A file's limit holds for its
own bytes; the frame around it may add a little.
"""

import asyncio
import mimetypes
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from senryu.server.settings import ServerSettings
from senryu.server.tenancy.files import StoredFile, Upload
from senryu.server.wire.errors import BodyTimedOut, InvalidRequest, RequestTooLarge
from senryu.server.wire.files import check_filename, check_life, check_mime_type

_WRITTEN_AT_ONCE = 2**20
_UNPACKED_AT_ONCE = 2**16
_FRAME_BYTES = 2**16  # of boundaries, headers of parts and the other field
_LONGEST_FIELD = 64
_UNKNOWN_TYPE = "application/octet-stream"


async def receive_file(request: Request, settings: ServerSettings, upload: Upload) -> StoredFile:
    """The file that a request brings, once it is kept. Raises InvalidRequest, RequestTooLarge,
    BodyTimedOut."""
    limit = int(settings.file_limit_mb * 2**20)
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit + _FRAME_BYTES:
        raise _too_large(limit)
    form = _Form(request.headers.get("content-type", ""))
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    size = 0
    async with (
        aclosing(_arriving(request, settings.body_seconds)) as arriving,
        aclosing(_unpacked(arriving, encoding)) as parts,
    ):
        async for part in parts:
            size += len(part)
            if size > limit + _FRAME_BYTES:
                raise _too_large(limit)
            form.feed(part)
            if len(form.data) >= _WRITTEN_AT_ONCE:
                await upload.write(form.taken())
            if upload.counted + len(form.data) > limit:
                raise _too_large(limit)
    await upload.write(form.taken())
    told = form.told()
    return await upload.keep(
        filename=told.filename,
        mime_type=told.mime_type,
        expires_in_seconds=told.expires_in_seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    filename: str
    mime_type: str
    expires_in_seconds: int | None


class _Form:
    """The two fields of an upload. Takes bytes as they come; `data` is what of the file has come
    and was not taken yet."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest(
                "content-type: an upload is multipart/form-data with a boundary, and the file is "
                "its part called `file`"
            )
        self.data = bytearray()
        self._fields: dict[str, bytearray] = {}
        self._file: tuple[str, str] | None = None  # what was said of its name and its type
        self._header = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._into = self.data
        self._ended = False
        with _told():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, at, end: self._header[0].extend(data[at:end]),
                    "on_header_value": lambda data, at, end: self._header[1].extend(data[at:end]),
                    "on_header_end": self._header_ended,
                    "on_headers_finished": self._part_begins,
                    "on_part_data": self._part_goes_on,
                    "on_end": self._all_came,
                },
            )

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        with _told():
            self._parser.write(data)

    def taken(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data

    def told(self) -> _Told:
        """What was said beside the file, now that all has come. Raises InvalidRequest."""
        if not self._ended:
            raise InvalidRequest("the multipart body ends before its last boundary; send it again")
        if self._file is None:
            raise InvalidRequest("file: Field required")
        name, said = self._file
        mime_type = check_mime_type(said or mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE)
        life = self._fields.get("expires_in_seconds")
        return _Told(
            filename=check_filename(name or f"unnamed{_extension(mime_type)}"),
            mime_type=mime_type,
            expires_in_seconds=None if life is None else check_life(_text(life)),
        )

    def _header_ended(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _part_begins(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = _text(options.get(b"name", b""))
        if name == "file":
            if self._file is not None:
                raise InvalidRequest("file: one file at a time; send the others on their own")
            said = _text(self._headers.get(b"content-type", b""))
            self._file = _text(options.get(b"filename", b"")), said
            # Refused for its name or its type it is at once, and not after half a gigabyte.
            check_filename(self._file[0] or "unnamed")
            check_mime_type(said or _UNKNOWN_TYPE)
            self._into = self.data
        elif name == "expires_in_seconds" and name not in self._fields:
            self._into = self._fields[name] = bytearray()
        else:
            raise InvalidRequest(f"{name[:_LONGEST_FIELD]}: Extra inputs are not permitted")

    def _part_goes_on(self, data: bytes, at: int, end: int) -> None:
        self._into += data[at:end]
        if self._into is not self.data and len(self._into) > _LONGEST_FIELD:
            raise InvalidRequest(
                f"expires_in_seconds: String should have at most {_LONGEST_FIELD} characters"
            )

    def _all_came(self) -> None:
        self._ended = True


@contextmanager
def _told() -> Iterator[None]:
    """What the parser stumbles over is the client's."""
    try:
        yield
    except FormParserError as error:
        raise InvalidRequest(f"the multipart body cannot be read ({error})") from None


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the headers of a multipart body have to be UTF-8") from None


def _extension(mime_type: str) -> str:
    return mimetypes.guess_extension(mime_type) or ""


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"File exceeds the maximum size of {limit / 2**20:g} MB; send it in parts"
    )


async def _arriving(request: Request, seconds: float) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises BodyTimedOut when nothing does for `seconds`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds) as patience:
            async for part in request.stream():
                patience.reschedule(None)  # what we do with it is not the client's time
                yield part
                patience.reschedule(loop.time() + seconds)
    except TimeoutError:
        raise BodyTimedOut(
            f"The request body stopped arriving: nothing came for {seconds:g} seconds; try again"
        ) from None


async def _unpacked(parts: AsyncIterator[bytes], encoding: str) -> AsyncGenerator[bytes, None]:
    """Of gzip (RFC 1952) its members one after the other, and never much at once."""
    if encoding in ("identity", ""):
        async for part in parts:
            yield part
        return
    if encoding not in ("gzip", "x-gzip"):
        raise InvalidRequest(
            f"content-encoding: {encoding!r} is not supported; send gzip, or no encoding",
            details={"error_code": "request_body_encoding_unsupported"},
        )
    member = zlib.decompressobj(31)
    try:
        async for part in parts:
            while part:
                if member.eof:
                    member = zlib.decompressobj(31)
                yield member.decompress(part, _UNPACKED_AT_ONCE)
                part = member.unconsumed_tail or member.unused_data
    except zlib.error as error:
        raise _corrupt(str(error)) from None
    if not member.eof:
        raise _corrupt("it ends too early")


def _corrupt(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"content-encoding: the body is not valid gzip ({why})",
        details={"error_code": "request_body_encoding_invalid"},
    )
