"""The beginning of a body as text, for those who asked to see it in the log."""

import zlib
from collections.abc import Iterable

_LONGEST = 32_768  # bytes
_AS_GZIP = 31  # what zlib calls that format


class Excerpt:
    """Holds the first 32 KiB of what is added, and counts the rest."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._size = 0
        self._packed = False
        self._binary = False

    def encoded_as(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """How the body is written, by the headers that come before it."""
        told = {name.lower(): value.lower() for name, value in headers}
        self._packed = b"gzip" in told.get(b"content-encoding", b"")
        kind = told.get(b"content-type", b"application/json")
        self._binary = not (kind.startswith(b"text/") or b"json" in kind)

    def add(self, body: bytes) -> None:
        self._size += len(body)
        self._held += body[: _LONGEST - len(self._held)]

    @property
    def text(self) -> str:
        if self._binary:
            return f"({self._size} bytes)"
        held, more = bytes(self._held), self._size - len(self._held)
        if self._packed:
            held = _unpacked(held)
        rest = f" ... and {more} bytes" if more else ""
        return held.decode(errors="replace") + rest


def _unpacked(held: bytes) -> bytes:
    try:
        return zlib.decompressobj(_AS_GZIP).decompress(held, _LONGEST)
    except zlib.error:
        return b"(no valid gzip)"
