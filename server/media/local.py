"""The media of a running server: the seam of `conversation.media`, with libraries behind it.

Nothing of them is imported before a request needs it. Its methods take their time, up to a
minute: they are called in worker threads, never on the event loop.
"""

from typing import Literal

from senryu.server.conversation.media import MOST_MEDIA, MediaError, most_media
from senryu.server.conversation.messages import ImageBlock
from senryu.server.settings import ServerSettings

from .pdf import PdfReader


class LocalMedia:
    """Reads media with this process and its children."""

    def __init__(self, *, most_pages: int = MOST_MEDIA, fetches: bool = False) -> None:
        self._pdfs = PdfReader(most_pages=most_pages)
        self._fetches = fetches

    def pdf_pages(self, data: bytes) -> list[str]:
        return self._pdfs.pages(data)

    def fetch(self, url: str, kind: Literal["image", "document"]) -> tuple[str, bytes]:
        if not self._fetches:
            raise MediaError("url sources are off on this server; send the data as base64")
        from .fetching import Fetcher

        return Fetcher().fetch(url, kind)

    def image(self, data: bytes, media_type: str) -> ImageBlock:
        from .pictures import read_image

        return read_image(data, media_type)


def open_media(settings: ServerSettings, *, window: int) -> LocalMedia:
    """The media that `settings` allow, for a model of this window."""
    return LocalMedia(most_pages=most_media(window), fetches=settings.fetch_media)
