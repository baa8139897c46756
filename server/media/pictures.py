"""Whether bytes are the picture that they are said to be, and one that a model can be shown.

Looks at every pixel once, so that a broken picture is the client's error and not the engine's.
Only servers whose model sees need Pillow, and their engine brings it.
"""

import io

from senryu.server.conversation.media import MediaError
from senryu.server.conversation.messages import ImageBlock

_FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
}
_LONGEST_SIDE = 8000


def read_image(data: bytes, media_type: str) -> ImageBlock:
    """The picture as it was sent. Raises MediaError in the contract's words (6.4)."""
    try:
        from PIL import Image
    except ImportError:
        raise MediaError(
            "this server does not support image input: it lacks Pillow; install the package pillow"
        ) from None
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_FORMATS.values())) as picture:
            found, longest = picture.format, max(picture.size)
            if longest <= _LONGEST_SIDE:
                picture.load()
    except Exception:  # a decoder may stumble in any way
        raise MediaError("Could not process image") from None
    if found != _FORMATS[media_type]:
        real = next(each for each, name in _FORMATS.items() if name == found)
        raise MediaError(f"the image was said to be {media_type}, but its bytes are {real}")
    if longest > _LONGEST_SIDE:
        raise MediaError(
            f"image dimensions exceed max allowed size: {_LONGEST_SIDE} pixels",
            details={
                "error_code": "image_dimensions_too_large",
                "max_side_length_pixels": _LONGEST_SIDE,
            },
        )
    return ImageBlock(media_type=media_type, data=data)
