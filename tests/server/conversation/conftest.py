"""What the tests of intake share: terms to read on, and a short way to read or be refused.

`read(tools=[…])` reads the smallest good request with these fields changed; `read.refusal(…)` gives
the sentence of its 400. `on` changes the terms, `count` reads the same for count_tokens.
"""

import json
from typing import Any, Literal

import pytest

from senryu.server.conversation.intake import Asked, Terms, read_request, read_sampling
from senryu.server.conversation.media import File, FileMissing, MediaError
from senryu.server.conversation.messages import ImageBlock, Sampling
from senryu.server.conversation.signing import Signer
from senryu.server.wire.errors import ApiError, InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, parse

# As much of a picture as is looked at here: it is 1 wide and 1 high.
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1"
SIGNER = Signer(b"the key of these tests")


class PlainMedia:
    """A PDF is its own text, a form feed between pages; pictures stay as they are."""

    def pdf_pages(self, data: bytes) -> list[str]:
        if not data.startswith(b"%PDF"):
            raise MediaError("Could not process PDF")
        return data.decode().removeprefix("%PDF").split("\f")

    def fetch(self, url: str, kind: Literal["image", "document"]) -> tuple[str, bytes]:
        if not url.startswith("https://known.example/"):
            raise MediaError("url sources are switched off on this server")
        return ("image/png", b"") if kind == "image" else ("text/plain", b"what was fetched")

    def file(self, file_id: str) -> File:
        """`file_` and its type are its id; what it holds is one of these."""
        held = {"plain": b"a file's text", "pdf": b"%PDFone\ftwo", "png": PNG, "huge": b""}
        types = {"plain": "text/plain", "pdf": "application/pdf", "png": "image/png"}
        name = file_id.removeprefix("file_")
        if name == "slow":
            raise MediaError("it took too long to find")
        if name not in held:
            raise FileMissing(f"File not found: {file_id}", details={"error_code": "e"})
        size = 2**26 if name == "huge" else len(held[name])
        return File(media_type=types.get(name, "text/plain"), size=size, read=lambda: held[name])

    def image(self, data: bytes, media_type: str) -> ImageBlock:
        return ImageBlock(media_type=media_type, data=data)


class Reader:
    signer = SIGNER

    def terms(self, **changed: Any) -> Terms:
        return Terms(**{"model": "m", "signer": SIGNER, "media": PlainMedia(), **changed})

    def request(self, **changed: Any) -> MessagesRequest:
        body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
        return parse(MessagesRequest, json.dumps(body | changed).encode())

    def __call__(
        self, *, on: dict[str, Any] | None = None, count: bool = False, **changed: Any
    ) -> Asked:
        request: MessagesRequest | CountTokensRequest = self.request(**changed)
        if count:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | changed
            request = parse(CountTokensRequest, json.dumps(body).encode())
        return read_request(request, self.terms(**(on or {})))

    def sampling(
        self, *, on: dict[str, Any] | None = None, limit: int = 10_000, **changed: Any
    ) -> Sampling:
        return read_sampling(self.request(**changed), self.terms(**(on or {})), limit=limit)

    def error(self, **changed: Any) -> ApiError:
        with pytest.raises(ApiError) as caught:
            self(**changed)
        return caught.value

    def refusal(self, **changed: Any) -> str:
        with pytest.raises(InvalidRequest) as caught:
            self(**changed)
        return caught.value.message

    def refused_sampling(self, **changed: Any) -> str:
        with pytest.raises(InvalidRequest) as caught:
            self.sampling(**changed)
        return caught.value.message


@pytest.fixture
def read() -> Reader:
    return Reader()
