"""Whether a picture can be decoded to its end, so that a broken one is the client's error and not
the engine's. Its type and its size were found good before.

Only a server whose model sees needs Pillow, and the engine of such a model brings it.
"""

import io

from senryu.server.conversation.media import MediaError
from senryu.server.conversation.messages import ImageBlock


def read_image(data: bytes, media_type: str) -> ImageBlock:
    """The picture as it was sent. Raises MediaError."""
    try:
        from PIL import Image
    except ImportError:
        raise MediaError(
            "this server does not support image input: it lacks Pillow; install the package pillow"
        ) from None
    # Only the decoder of the type that was said may look at it.
    decoder = media_type.removeprefix("image/").upper()
    try:
        with Image.open(io.BytesIO(data), formats=[decoder]) as picture:
            picture.load()
    except Exception:  # a decoder may stumble in any way
        raise MediaError("Could not process image") from None
    return ImageBlock(media_type=media_type, data=data)
