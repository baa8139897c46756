"""What the first bytes of a picture tell: its type, and how wide and high it is."""

import struct
from collections.abc import Callable

Size = tuple[int, int]

# JPEG: the segments that begin a frame and hold its size; those without a length of their own.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}


def picture_type(data: bytes) -> str | None:
    """The media type that its first bytes show; None when they are no picture's."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def size_of(data: bytes, media_type: str) -> Size | None:
    """Width and height in pixels; None when the picture is cut off or damaged before them."""
    try:
        size = _SIZES[media_type](data)
    except (struct.error, IndexError):
        return None
    return size if size and min(size) > 0 else None


def _png(data: bytes) -> Size | None:
    width, height = struct.unpack_from(">II", data, 16)
    return (width, height) if data[12:16] == b"IHDR" else None


def _gif(data: bytes) -> Size | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while True:
        if data[place] != 0xFF:
            return None
        while data[place] == 0xFF:  # any number of them may come before a marker
            place += 1
        marker = data[place]
        place += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        if marker not in _BARE:
            (length,) = struct.unpack_from(">H", data, place)
            place += max(length, 2)


def _webp(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
            return (width, height) if len(data) >= 30 else None
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


_SIZES: dict[str, Callable[[bytes], Size | None]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
