"""Decodes pictures, to their end, so that a broken one is the client's error and not the engine's.
Their type and their size were found good before.

Only a server whose model sees needs Pillow, and the engine of such a model brings it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from senryu.server.conversation.media import MediaError
from senryu.server.conversation.messages import ImageBlock
from senryu.server.conversation.pictures import NATIVE_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile


def read_image(data: bytes, media_type: str) -> ImageBlock:
    """The picture as it was sent. Raises MediaError."""
    block = ImageBlock(media_type=media_type, data=data)
    try:
        with _opened(block) as picture:
            picture.load()
    except ImportError:
        raise MediaError(
            "this server does not support image input: it lacks Pillow; install the package pillow"
        ) from None
    except Exception:  # a decoder may stumble in any way
        raise MediaError("Could not process image") from None
    return block


def decoded(block: ImageBlock) -> Image:
    """What a model is shown of a picture that was read before: nothing shines through it, and its
    longer side is made as short as is said of it; and it stands as its camera was held."""
    from PIL import Image

    most = (NATIVE_SIDE, NATIVE_SIDE)
    with _opened(block) as picture:
        picture.draft(None, most)  # a JPEG is read no larger than it has to be
        shown = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    shown.thumbnail(most)
    if shown.mode == "RGBA":
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return _upright(shown).convert("RGB")


def _upright(picture: Image) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # what is noted beside a picture may be broken in any way; it is shown as is
        return picture


def blank() -> ImageBlock:
    """A small white picture, to try a model's eyes with."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    return ImageBlock(media_type="image/png", data=file.getvalue())


def _opened(block: ImageBlock) -> ImageFile:
    """Only the decoder of the type that was said may look at it."""
    from PIL import Image

    decoder = block.media_type.removeprefix("image/").upper()
    return Image.open(io.BytesIO(block.data), formats=[decoder])
