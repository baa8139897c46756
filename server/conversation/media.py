"""The seam to what is not text: pictures, PDFs, and what lies behind an address.

Reading a request needs the results and not the libraries; tests bring media of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .messages import ImageBlock

MOST_MEDIA = 600
_COMMON_WINDOW = 200_000


def most_media(window: int) -> int:
    """How many images and pages of documents together a model of this window is shown."""
    return 100 if window <= _COMMON_WINDOW else MOST_MEDIA


class MediaError(Exception):
    """What was sent cannot be used. The text goes behind its location in a 400, and `details`
    beside it where the contract names a code."""

    def __init__(self, text: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.details = details


class FileMissing(MediaError):
    """No such file, or none that this client may see, or not any more: a 404."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An uploaded file. What it is can be told without reading it."""

    media_type: str
    """As it was said when it was uploaded."""
    size: int
    read: Callable[[], bytes]
    """Raises FileMissing."""


class Media(Protocol):
    """What makes text and pictures of bytes. Every method raises MediaError."""

    def pdf_pages(self, data: bytes) -> list[str]:
        """The text layer of a PDF, page by page; an empty string for a page without one."""
        ...

    def fetch(self, url: str, kind: Literal["image", "document"]) -> tuple[str, bytes]:
        """The media type and the bytes behind an address."""
        ...

    def file(self, file_id: str) -> File:
        """The file of this id, if whoever asks may see it. Raises FileMissing, too."""
        ...

    def image(self, data: bytes, media_type: str) -> ImageBlock:
        """A picture as the model takes it."""
        ...
