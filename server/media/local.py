"""The media of a running server: the seam of `conversation.media`, with libraries behind it.

Nothing of them is imported before a request needs it. Its methods take their time: they are
called in worker threads, never on the event loop.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from senryu.server.conversation.media import File, FileMissing, MediaError, most_media
from senryu.server.conversation.messages import ImageBlock
from senryu.server.settings import ServerSettings

from .pdf import PdfReader

OpenFile = Callable[[str, float], File]
"""Finds a client's file by its id, within so many seconds."""

# For all PDFs and addresses of a request together: others wait for the thread that reads them.
_SECONDS = 60.0
_SECONDS_OF_ONE_FETCH = 10.0


class LocalMedia:
    """Reads the media of one request, which is to begin now."""

    def __init__(
        self,
        pdfs: PdfReader,
        *,
        fetches: bool,
        files: OpenFile | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        self._pdfs = pdfs
        self._fetches = fetches
        self._files = files
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def pdf_pages(self, data: bytes) -> list[str]:
        return self._pdfs.pages(data, seconds=self._left())

    def fetch(self, url: str, kind: Literal["image", "document"]) -> tuple[str, bytes]:
        if not self._fetches:
            raise MediaError("url sources are off on this server; send the data as base64")
        from .fetching import Fetcher

        seconds = min(self._left(), _SECONDS_OF_ONE_FETCH)
        return Fetcher(seconds=seconds).fetch(url, kind)

    def file(self, file_id: str) -> File:
        if self._files is None:
            raise FileMissing(f"File not found: {file_id}: this server keeps no files")
        return self._files(file_id, self._left())

    def image(self, data: bytes, media_type: str) -> ImageBlock:
        from .pictures import read_image

        return read_image(data, media_type)

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise MediaError(
                f"the media of this request take longer than {self._seconds:g} seconds to read; "
                "send fewer"
            )
        return left


def media_opener(settings: ServerSettings, *, window: int) -> Callable[..., LocalMedia]:
    """Opens, for each request, the media that `settings` allow a model of this window; `files=`
    finds those of whoever asks."""
    pdfs = PdfReader(most_pages=most_media(window))
    return partial(LocalMedia, pdfs, fetches=settings.fetch_media)
