"""A picture is shown to the model only if it can be decoded to its end."""

import io
import sys

import pytest

from senryu.server.conversation.media import MediaError
from senryu.server.conversation.messages import ImageBlock
from senryu.server.media.pictures import read_image

image = pytest.importorskip("PIL.Image", reason="Pillow comes with the engine")


def drawn(kind: str) -> bytes:
    file = io.BytesIO()
    image.effect_noise((64, 64), 50).save(file, kind)
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
