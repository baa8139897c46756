"""Pictures of a request: within the contract's limits, and handed to whoever decodes them (6.4).

The first bytes of a picture tell its type and its size; to be refused for either it need not be
decoded.
"""

import base64
import binascii
from dataclasses import dataclass

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest

from .media import MediaError
from .media_budget import MediaBudget
from .messages import ImageBlock
from .picture_heads import picture_type, size_of
from .terms import Terms
from .uploaded import found_file, read_file

_PICTURE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_MOST_MEGABYTES = 10
_LONGEST_SIDE = 8000
_MANY_PICTURES = 20
_LONGEST_SIDE_OF_MANY = 2000
# Beyond this the hosted service makes a picture smaller, unless the client wants an error.
NATIVE_SIDE = 1568


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Reads the pictures of one request."""

    terms: Terms
    budget: MediaBudget

    def read(self, block: wire.Image, here: str) -> ImageBlock:
        """Raises InvalidRequest or NotFound."""
        if not self.terms.sees:
            raise InvalidRequest(
                f"{here}: {self.terms.model} does not support image input; send text in its place"
            )
        media_type: str
        match block.source:
            case wire.Base64ImageSource() as source:
                within = f"{here}.source.base64"
                media_type, data = source.media_type, _decoded(source.data, within)
            case wire.UrlSource() as source:
                within = f"{here}.source.url"
                media_type, data = self._fetched(source.url, within)
            case wire.FileSource() as source:
                within = f"{here}.source.file"
                media_type, data = self._uploaded(source.file_id, within)
        size = self._size(data, media_type, within)
        longest = max(size)
        wishes = block.transformations
        if wishes and wishes.oversized_image == "error" and longest > NATIVE_SIDE:
            raise InvalidRequest(
                f"{within}.data: the image has a side of {longest} pixels, more than the "
                f"{NATIVE_SIDE} that are shown as they are; send it smaller, or let it be "
                "downsized"
            )
        self.budget.add_pixels(_shown_pixels(size))
        try:
            return self.terms.media.image(data, media_type)
        except MediaError as error:
            raise InvalidRequest(f"{within}: {error}", details=error.details) from None

    def _fetched(self, url: str, here: str) -> tuple[str, bytes]:
        try:
            return self.terms.media.fetch(url, "image")
        except MediaError as error:
            raise InvalidRequest(f"{here}: {error}", details=error.details) from None

    def _uploaded(self, file_id: str, here: str) -> tuple[str, bytes]:
        file = found_file(self.terms, file_id, here)
        if file.media_type not in _PICTURE_TYPES:
            raise InvalidRequest(
                f"{here}.file_id: the file is of type {file.media_type!r}; an image has to be "
                "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
            )
        if not file.size:
            raise InvalidRequest(f"{here}: image cannot be empty")
        _check_bytes(file.size, here)
        return file.media_type, read_file(file, self.budget, here)

    def _size(self, data: bytes, media_type: str, here: str) -> tuple[int, int]:
        """In pixels, within the limits. Raises InvalidRequest."""
        found = picture_type(data)
        if found is None:
            raise InvalidRequest(f"{here}: Could not process image")
        if found != media_type:
            raise InvalidRequest(
                f"{here}.media_type: the image was said to be {media_type}, but it is {found}"
            )
        size = size_of(data, found)
        if size is None:
            raise InvalidRequest(f"{here}: Could not process image")
        longest = max(size)
        if longest > _LONGEST_SIDE:
            raise _too_large(
                f"image dimensions exceed max allowed size: {_LONGEST_SIDE} pixels",
                _LONGEST_SIDE,
                here,
            )
        if self.budget.pictures > _MANY_PICTURES and longest > _LONGEST_SIDE_OF_MANY:
            raise _too_large(
                "image dimensions exceed max allowed size for many-image requests: "
                f"{_LONGEST_SIDE_OF_MANY} pixels",
                _LONGEST_SIDE_OF_MANY,
                here,
            )
        return size


def _shown_pixels(size: tuple[int, int]) -> int:
    width, height = size
    scale = min(1.0, NATIVE_SIDE / max(size))
    return int(width * height * scale**2)


def _too_large(text: str, side: int, here: str) -> InvalidRequest:
    return InvalidRequest(
        f"{here}.data: {text}",
        details={
            "error_code": "image_dimensions_too_large",
            "max_side_length_pixels": side,
            "paths": [here],
        },
    )


def _check_bytes(count: int, here: str) -> None:
    most = _MOST_MEGABYTES * 2**20
    if count > most:
        raise InvalidRequest(
            f"{here}: image exceeds {_MOST_MEGABYTES} MB maximum: {count} bytes > {most} bytes"
        )


def _decoded(encoded: str, here: str) -> bytes:
    if not encoded:
        raise InvalidRequest(f"{here}.data: image cannot be empty")
    _check_bytes(len(encoded), f"{here}.data")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{here}.data: Could not process image: the data is not valid base64"
        ) from None
