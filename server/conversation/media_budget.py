"""How much a request may bring that is not text, over all of its messages.

It is all in memory at one time: the text of its documents until its tokens are counted, its
pictures, decoded, until the engine has looked at them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest

from .media import most_media
from .walk import Placed

# No language has words that are so long to a tokenizer.
_CHARACTERS_OF_A_TOKEN = 16
# A hundred of the largest that a model is shown, which take three quarters of a gibibyte.
_MOST_PIXELS = 2**28
# Of uploaded files, which cost a request nothing to name: as much as four bodies may bring.
_MOST_FILE_BYTES = 2**27


@dataclass(slots=True)
class MediaBudget:
    """Counts the media of one request while they are read. What is too much raises
    InvalidRequest."""

    window: int
    """The tokens of the model's window."""
    pictures: int
    """How many there are, those not yet read included."""
    media: int
    """The pictures, and the pages of documents; a document not yet read is one page."""
    characters: int = 0
    pixels: int = 0
    file_bytes: int = 0

    def __post_init__(self) -> None:
        self._check_media()

    def add_pages(self, count: int) -> None:
        """The pages of a document, once it is read."""
        self.media += count - 1
        self._check_media()

    def add_text(self, characters: int, here: str) -> None:
        """Text that did not stand in the request, but in a document of it."""
        self.characters += characters
        if self.characters > _CHARACTERS_OF_A_TOKEN * self.window:
            raise InvalidRequest(
                f"{here}: the documents up to this one hold {self.characters} characters of text, "
                f"far more than the model's window of {self.window} tokens; send less of them"
            )

    def add_file(self, size: int, here: str) -> None:
        """Bytes of a file, before it is read."""
        self.file_bytes += size
        if self.file_bytes > _MOST_FILE_BYTES:
            raise InvalidRequest(
                f"{here}: Too much media: the files up to this one have {self.file_bytes} bytes > "
                f"{_MOST_FILE_BYTES} maximum; send fewer or smaller ones"
            )

    def add_pixels(self, count: int) -> None:
        """Those of a picture as the model is shown it."""
        self.pixels += count
        if self.pixels > _MOST_PIXELS:
            raise InvalidRequest(
                f"messages: Too much media: the images have more than {_MOST_PIXELS} pixels as "
                "they are shown; send fewer or smaller ones"
            )

    def _check_media(self) -> None:
        most = most_media(self.window)
        if self.media > most:
            raise InvalidRequest(
                f"messages: Too much media: {self.media} images and pages of documents > {most} "
                "maximum; send fewer"
            )


def media_budget(blocks: Sequence[Placed], window: int) -> MediaBudget:
    """For a request of these blocks. Raises InvalidRequest for more media than can be read."""
    pictures = sum(isinstance(placed.block, wire.Image) for placed in blocks)
    documents = sum(
        isinstance(placed.block, wire.Document)
        and isinstance(placed.block.source, wire.Base64PdfSource | wire.UrlSource | wire.FileSource)
        for placed in blocks
    )
    return MediaBudget(window, pictures, pictures + documents)
