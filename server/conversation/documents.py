"""Documents and search results as a model reads them: text between marks of ours.

The same document gives the same bytes wherever it stands: they are in prompts that are cached.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest

from .cache_marks import marked
from .media import MediaError
from .media_budget import MediaBudget
from .messages import ImageBlock, TextBlock
from .pictures import Pictures
from .terms import Terms
from .uploaded import found_file, read_file

# What may come in a body of its own; the process that reads it is held to a gibibyte.
_MOST_PDF_BYTES = 2**25

Part = TextBlock | ImageBlock


def read_document(
    block: wire.Document, here: str, terms: Terms, pictures: Pictures
) -> Iterator[Part]:
    """Raises InvalidRequest or NotFound."""
    named = (("title", block.title), ("context", block.context))
    head = "".join(f"{name}: {value}\n" for name, value in named if value)
    yield TextBlock(text=f"\n<document>\n{head}\n" if head else "\n<document>\n")
    yield from _parts(block.source, f"{here}.source", terms, pictures)
    yield TextBlock(text="\n</document>\n")


def read_search_result(block: wire.SearchResult) -> TextBlock:
    found = "\n\n".join(text.text for text in block.content)
    head = f"source: {block.source}\ntitle: {block.title}"
    result = [TextBlock(text=f"\n<search_result>\n{head}\n\n{found}\n</search_result>\n")]
    for text in block.content:
        result = marked(result, text)
    return result[0]


def _parts(
    source: wire.DocumentSource, here: str, terms: Terms, pictures: Pictures
) -> Iterator[Part]:
    match source:
        case wire.PlainTextSource():
            yield TextBlock(text=source.data)
        case wire.ContentSource():
            for place, part in enumerate(source.content):
                if isinstance(part, wire.Text):
                    yield from marked([TextBlock(text=part.text)], part)
                else:
                    image = pictures.read(part, f"{here}.content.content.{place}.image")
                    yield from marked([image], part)
        case wire.Base64PdfSource():
            yield _pdf(_decoded(source.data, here), f"{here}.base64", terms, pictures.budget)
        case wire.UrlSource():
            yield _fetched(source.url, f"{here}.url", terms, pictures.budget)
        case wire.FileSource():
            yield _uploaded(source.file_id, f"{here}.file", terms, pictures.budget)


def _decoded(data: str, here: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{here}.base64.data: Could not process PDF: the data is not valid base64"
        ) from None


def _pdf(data: bytes, here: str, terms: Terms, budget: MediaBudget) -> TextBlock:
    try:
        pages = terms.media.pdf_pages(data)
    except MediaError as error:
        raise InvalidRequest(f"{here}: {error}", details=error.details) from None
    budget.add_pages(len(pages))
    budget.add_text(sum(map(len, pages)), here)
    if not any(page.strip() for page in pages):
        raise InvalidRequest(
            f"{here}: {terms.model} does not support PDF input without a text layer; send the "
            "text, or a PDF that has one"
        )
    return TextBlock(text=_numbered(pages))


def _numbered(pages: Sequence[str]) -> str:
    return "\n\n".join(f"[page {number}]\n{page}" for number, page in enumerate(pages, start=1))


def _fetched(url: str, here: str, terms: Terms, budget: MediaBudget) -> TextBlock:
    try:
        media_type, data = terms.media.fetch(url, "document")
    except MediaError as error:
        raise InvalidRequest(f"{here}: {error}", details=error.details) from None
    if media_type == "application/pdf":
        return _pdf(data, here, terms, budget)
    if media_type == "text/plain":
        return _plain(data, here, budget)
    raise _unreadable(media_type, here)


def _uploaded(file_id: str, here: str, terms: Terms, budget: MediaBudget) -> TextBlock:
    file = found_file(terms, file_id, here)
    if file.media_type == "application/pdf":
        if file.size > _MOST_PDF_BYTES:
            raise InvalidRequest(
                f"{here}: Could not process PDF: it has {file.size} bytes > {_MOST_PDF_BYTES} "
                "maximum; send a part of it"
            )
        return _pdf(read_file(file, budget, here), here, terms, budget)
    if file.media_type == "text/plain":
        return _plain(read_file(file, budget, here), here, budget)
    raise _unreadable(file.media_type, f"{here}.file_id")


def _plain(data: bytes, here: str, budget: MediaBudget) -> TextBlock:
    text = data.decode("utf-8-sig", errors="replace")
    budget.add_text(len(text), here)
    return TextBlock(text=text)


def _unreadable(media_type: str, here: str) -> InvalidRequest:
    return InvalidRequest(
        f"{here}: the document is of type {media_type!r}; it has to be 'application/pdf' or "
        "'text/plain'"
    )
