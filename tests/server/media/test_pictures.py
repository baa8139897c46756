"""A picture is shown to the model only if it can be decoded to its end."""

import io
import sys
from typing import Any

import pytest

from senryu.server.conversation.media import MediaError
from senryu.server.conversation.messages import ImageBlock
from senryu.server.media.pictures import blank, decoded, read_image

image = pytest.importorskip("PIL.Image", reason="Pillow comes with the engine")


def drawn(kind: str) -> bytes:
    return saved(image.effect_noise((64, 64), 50), kind)


def saved(picture: Any, kind: str = "png") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp"])
def test_a_good_picture_goes_on_as_it_was_sent(kind: str) -> None:
    data = drawn(kind)
    block = read_image(data, f"image/{kind}")
    assert block == ImageBlock(media_type=f"image/{kind}", data=data)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_that_was_cut_off_is_refused(kind: str) -> None:
    data = drawn(kind)
    with pytest.raises(MediaError, match=r"^Could not process image$"):
        read_image(data[: len(data) // 2], f"image/{kind}")


def test_bytes_of_another_kind_are_not_looked_at() -> None:
    with pytest.raises(MediaError, match=r"^Could not process image$"):
        read_image(drawn("bmp"), "image/png")


def test_a_server_without_pillow_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MediaError, match="install the package pillow"):
        read_image(b"", "image/png")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(
    ("size", "shown"),
    [((3136, 600), (1568, 300)), ((40, 2000), (31, 1568)), ((1568, 9), (1568, 9))],
)
def test_a_picture_is_shown_no_larger_than_is_said(
    kind: str, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    data = saved(image.new("RGB", size, "red"), kind)
    picture = decoded(ImageBlock(media_type=f"image/{kind}", data=data))
    assert (picture.mode, picture.size) == ("RGB", shown)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_shown_white(mode: str) -> None:
    picture = image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((0, 0), (0, 0, 0, 255))
    shown = decoded(ImageBlock(media_type="image/png", data=saved(picture.convert(mode))))
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "CMYK"])
def test_a_picture_of_any_kind_of_colour_is_shown(mode: str) -> None:
    kind = "jpeg" if mode == "CMYK" else "png"
    data = saved(image.new(mode, (8, 8)), kind)
    assert decoded(ImageBlock(media_type=f"image/{kind}", data=data)).mode == "RGB"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(("orientation", "top"), [(1, 0), (3, 255), (6, 0), (8, 0)])
def test_a_picture_is_shown_as_its_camera_was_held(kind: str, orientation: int, top: int) -> None:
    """The upper half black, the lower one white; 6 and 8 lay it on its side."""
    picture = image.new("RGB", (40, 60), "white")
    picture.paste("black", (0, 0, 40, 30))
    exif = image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, kind, exif=exif)
    shown = decoded(ImageBlock(media_type=f"image/{kind}", data=file.getvalue()))
    assert shown.size == ((60, 40) if orientation in (6, 8) else (40, 60))
    corner = (59, 20) if orientation == 6 else (0, 20) if orientation == 8 else (20, 0)
    assert abs(shown.getpixel(corner)[0] - top) < 20


def test_what_is_noted_beside_a_picture_may_be_broken() -> None:
    file = io.BytesIO()
    image.new("RGB", (4, 2), "red").save(file, "png", exif=b"broken")
    block = read_image(file.getvalue(), "image/png")
    assert decoded(block).size == (4, 2)


def test_there_is_a_picture_to_try_with() -> None:
    picture = decoded(blank())
    assert picture.getpixel((0, 0)) == (255, 255, 255)
