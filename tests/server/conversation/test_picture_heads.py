"""The first bytes of a picture tell its type and size."""

import struct

import pytest

from senryu.server.conversation.picture_heads import picture_type, size_of

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480)
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x04ab"  # a segment that is passed over
    b"\xff\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 480, 640)
)
LOSSY = b"RIFF....WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480)
LOSSLESS = b"RIFF....WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 639 | 479 << 14)
EXTENDED = (
    b"RIFF....WEBPVP8X\x0a\0\0\0\0\0\0\0"
    + (639).to_bytes(3, "little")
    + (479).to_bytes(3, "little")
)
PICTURES = {
    "image/png": [PNG],
    "image/gif": [GIF],
    "image/jpeg": [JPEG],
    "image/webp": [LOSSY, LOSSLESS, EXTENDED],
}
EVERY = [(kind, data) for kind, each in PICTURES.items() for data in each]


@pytest.mark.parametrize(("kind", "data"), EVERY)
def test_the_type_and_the_size_are_told(kind: str, data: bytes) -> None:
    assert picture_type(data) == kind
    assert size_of(data, kind) == (640, 480)


@pytest.mark.parametrize(("kind", "data"), EVERY)
def test_a_picture_cut_off_anywhere_has_no_size_and_does_no_harm(kind: str, data: bytes) -> None:
    for end in range(len(data)):
        assert size_of(data[:end], kind) is None


@pytest.mark.parametrize(
    "data", [b"", b"BM....", b"%PDF-1.7", b"RIFF....WAVE", b"<svg/>", b"\x89PNX"]
)
def test_what_is_no_picture_has_no_type(data: bytes) -> None:
    assert picture_type(data) is None
