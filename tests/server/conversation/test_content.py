"""What is not plain text: pictures, documents and search results, and the limits on them (6.4)."""

import base64
import struct
from typing import Any

import pytest

from senryu.server.conversation.messages import ImageBlock, TextBlock, ToolResultBlock

SEES = {"sees": True}
CURRENT = {"version": "2026-10-21"}
CALL = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def png(width: int = 4, height: int = 3) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08"


def image(data: bytes | str | None = None, media_type: str = "image/png") -> dict[str, Any]:
    data = png() if data is None else data
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": encoded},
    }


def document(words: str = "Be it known.", **more: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": words}
    return {"type": "document", "source": source} | more


def pdf(data: bytes | str) -> dict[str, Any]:
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": encoded}
    return {"type": "document", "source": source}


SEARCH = {
    "type": "search_result",
    "source": "https://x.example/senryu",
    "title": "Senryu",
    "content": [text("Seventeen syllables."), text("About people.")],
}
URL = {"type": "url", "url": "https://elsewhere.example/a"}
FILE = {"type": "file", "file_id": "file_1"}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def words(read: Any, *blocks: Any, **changed: Any) -> str:
    (turn,) = read(messages=[user(*blocks)], **changed).conversation.messages
    told: str = turn.text
    return told


# --- documents and search results --------------------------------------------------------------


def test_a_document_is_its_text_between_marks(read: Any) -> None:
    """These bytes are in cached prompts: they do not change."""
    assert words(read, text("Read this:"), document(), text("Well?")) == (
        "Read this:\n<document>\nBe it known.\n</document>\nWell?"
    )
    named = document(title="Charter", context="from 1215")
    assert words(read, named) == (
        "\n<document>\ntitle: Charter\ncontext: from 1215\n\nBe it known.\n</document>\n"
    )


def test_a_pdf_is_the_text_of_its_pages(read: Any) -> None:
    assert words(read, pdf(b"%PDFone\ftwo")) == (
        "\n<document>\n[page 1]\none\n\n[page 2]\ntwo\n</document>\n"
    )


def test_a_document_may_be_made_of_blocks(read: Any) -> None:
    parts = {"type": "content", "content": [text("a"), image(), text("b")]}
    (turn,) = read(
        on=SEES, messages=[user({"type": "document", "source": parts})]
    ).conversation.messages
    assert turn.content == (
        TextBlock(text="\n<document>\n"),
        TextBlock(text="a"),
        ImageBlock(media_type="image/png", data=png()),
        TextBlock(text="b"),
        TextBlock(text="\n</document>\n"),
    )
    string = {"type": "document", "source": {"type": "content", "content": "ab"}}
    assert words(read, string) == words(read, document("ab"))


def test_a_search_result_is_its_text_between_marks(read: Any) -> None:
    assert words(read, SEARCH) == (
        "\n<search_result>\nsource: https://x.example/senryu\ntitle: Senryu\n\n"
        "Seventeen syllables.\n\nAbout people.\n</search_result>\n"
    )


def test_what_a_tool_gave_back_may_hold_them_too(read: Any) -> None:
    content = [text("found:"), SEARCH, document(), image()]
    result = {"type": "tool_result", "tool_use_id": "a", "content": content}
    asked = read(
        on=SEES,
        messages=[user(text("hi")), {"role": "assistant", "content": [CALL]}, user(result)],
    )
    (block,) = asked.conversation.messages[-1].content
    assert isinstance(block, ToolResultBlock)
    assert [type(part) for part in block.content] == [TextBlock] * 5 + [ImageBlock]


def test_what_a_page_looked_like_is_dropped_and_the_client_is_told(read: Any) -> None:
    state = {"type": "browser_state", "url": "x"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [text("ok"), state]}
    messages = [user(text("hi")), {"role": "assistant", "content": [CALL]}, user(result)]
    assert read(messages=messages).ignored == ("messages.browser_state",)


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (pdf(b"no pdf"), "messages.0.content.0.document.source.base64: Could not process PDF"),
        (pdf("*"), "messages.0.content.0.document.source.base64.data: Could not process PDF"),
        (
            pdf(b"%PDF \f\n"),
            "messages.0.content.0.document.source.base64: m does not support PDF input without a ",
        ),
        (
            {"type": "document", "source": URL},
            "messages.0.content.0.document.source.url: url sources are switched off",
        ),
        (
            {"type": "container_upload", "file_id": "f"},
            "messages.0.content.0: `container_upload` blocks are not supported",
        ),
    ],
)
def test_a_document_that_cannot_be_read_is_named(
    read: Any, block: dict[str, Any], told: str
) -> None:
    assert read.refusal(messages=[user(block)]).startswith(told)


def test_an_address_is_read_where_that_is_allowed(read: Any) -> None:
    source = {"type": "url", "url": "https://known.example/a.txt"}
    block = {"type": "document", "source": source}
    assert words(read, block) == words(read, document("what was fetched"))


def file(name: str, kind: str = "document") -> dict[str, Any]:
    return {"type": kind, "source": {"type": "file", "file_id": f"file_{name}"}}


def test_a_file_is_read_like_what_it_holds(read: Any) -> None:
    assert words(read, file("plain")) == words(read, document("a file's text"))
    assert words(read, file("pdf")) == words(read, pdf(b"%PDFone\ftwo"))
    (turn,) = read(on=SEES, messages=[user(file("png", "image"))]).conversation.messages
    (picture,) = turn.content
    assert picture.data[:4] == b"\x89PNG"


def test_a_block_has_to_fit_the_type_of_its_file(read: Any) -> None:
    for name, kind in (("plain", "image"), ("pdf", "image"), ("png", "document")):
        refusal = read.refusal(on=SEES, messages=[user(file(name, kind))])
        assert refusal.startswith(f"messages.0.content.0.{kind}.source.file.file_id: the ")
        assert "is of type" in refusal


def test_a_file_that_cannot_be_looked_for_is_no_missing_one(read: Any) -> None:
    assert read.refusal(messages=[user(file("slow"))]).endswith("it took too long to find")


def test_there_is_an_end_to_the_bytes_of_files_together(read: Any) -> None:
    read(messages=[user(*[file("huge")] * 2)])
    assert "Too much media" in read.refusal(messages=[user(*[file("huge")] * 3)])
    refusal = read.refusal(on=SEES, messages=[user(file("huge", "image"))])
    assert "is of type 'text/plain'" in refusal


def test_a_file_may_be_a_page_of_a_pdf_and_counts_as_one(read: Any) -> None:
    few = {"window": 200_000}
    read(on=few, messages=[user(*[file("plain")] * 100)])
    assert "Too much media" in read.refusal(on=few, messages=[user(*[file("plain")] * 101)])


@pytest.mark.parametrize("kind", ["image", "document"])
def test_a_file_that_there_is_not_is_a_404_with_its_place(read: Any, kind: str) -> None:
    error = read.error(on=SEES, messages=[user({"type": kind, "source": FILE})])
    assert (error.status, error.type) == (404, "not_found_error")
    assert error.message == (
        f"messages.0.content.0.{kind}.source.file.file_id: File not found: file_1"
    )
    assert error.details == {"error_code": "e"}  # as the store says, where it has expired


# --- pictures ----------------------------------------------------------------------------------


def test_a_model_that_sees_is_given_the_picture(read: Any) -> None:
    (turn,) = read(on=SEES, messages=[user(image(), text("What?"))]).conversation.messages
    assert turn.content[0] == ImageBlock(media_type="image/png", data=png())


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([user(text("a"), image())], "messages.0.content.1.image"),
        ([user({"type": "image", "source": URL})], "messages.0.content.0.image"),
        (
            [
                user(text("a")),
                {"role": "assistant", "content": [CALL]},
                user({"type": "tool_result", "tool_use_id": "a", "content": [image()]}),
            ],
            "messages.2.content.0.tool_result.content.0.image",
        ),
        (
            [
                user(
                    {
                        "type": "document",
                        "source": {"type": "content", "content": [text("a"), image()]},
                    }
                )
            ],
            "messages.0.content.0.document.source.content.content.1.image",
        ),
    ],
)
def test_a_model_that_does_not_see_says_where_the_picture_is(
    read: Any, messages: list[Any], place: str
) -> None:
    assert read.refusal(messages=messages).startswith(f"{place}: m does not support image input")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (image(b"no picture"), ": Could not process image"),
        (image(b"\x89PNG\r\n\x1a\n"), ": Could not process image"),
        (image("*"), ".data: Could not process image"),
        (image(""), ".data: image cannot be empty"),
        (
            image(png(), "image/jpeg"),
            ".media_type: the image was said to be image/jpeg, but it is image/png",
        ),
        (
            image("A" * (10 * 2**20 + 4)),
            ".data: image exceeds 10 MB maximum: 10485764 bytes > 10485760 bytes",
        ),
    ],
)
def test_a_picture_that_is_none_is_named(read: Any, block: dict[str, Any], told: str) -> None:
    assert read.refusal(on=SEES, messages=[user(block)]).startswith(
        f"messages.0.content.0.image.source.base64{told}"
    )


def test_a_picture_has_its_greatest_size(read: Any) -> None:
    assert read(on=SEES, messages=[user(image(png(8000, 1)))])
    error = read.error(on=SEES, messages=[user(image(png(1, 8001)))])
    assert "image dimensions exceed max allowed size: 8000 pixels" in error.message
    assert error.details == {
        "error_code": "image_dimensions_too_large",
        "max_side_length_pixels": 8000,
        "paths": ["messages.0.content.0.image.source.base64"],
    }


def test_many_pictures_have_a_smaller_one(read: Any) -> None:
    small, large = image(png(2000, 2000)), image(png(2001, 1))
    assert read(on=SEES, messages=[user(*[small] * 100)])
    assert read(on=SEES, messages=[user(*[large] * 20)])
    error = read.error(on=SEES, messages=[user(*[small] * 20, large)])
    assert error.message.endswith(
        "image dimensions exceed max allowed size for many-image requests: 2000 pixels"
    )


def test_a_client_may_want_no_picture_made_smaller(read: Any) -> None:
    wish = {"transformations": {"oversized_image": "error"}}
    assert read(on=SEES, messages=[user(image(png(1568, 1)) | wish)])
    words = read.refusal(on=SEES, messages=[user(image(png(1, 1569)) | wish)])
    assert "a side of 1569 pixels, more than the 1568" in words
    assert read(on=SEES, messages=[user(image(png(1, 1569)))])


@pytest.mark.parametrize(("window", "most"), [(200_000, 100), (200_001, 600)])
def test_there_is_an_end_to_pictures_and_pages_together(read: Any, window: int, most: int) -> None:
    seven, one = pdf(b"%PDF" + b"\f".join([b"page"] * 7)), pdf(b"%PDFpage")
    on = SEES | {"window": window}
    for block in (image(), one):
        for blocks in ([block] * (most - 7) + [seven], [seven] + [block] * (most - 7)):
            assert read(on=on, messages=[user(*blocks)])
            error = read.refusal(on=on, messages=[user(block), *[user(each) for each in blocks]])
            assert error == (
                f"messages: Too much media: {most + 1} images and pages of documents > {most} "
                "maximum; send fewer"
            )


def test_documents_of_plain_text_are_no_media(read: Any) -> None:
    assert read(on={"window": 200_000}, messages=[user(*[document()] * 101)])


def test_there_is_an_end_to_the_text_of_documents(read: Any) -> None:
    """A small PDF unfolds to megabytes, and an address leads to ten of them."""
    half = pdf(b"%PDF" + b"x" * 800)
    fetched = {"type": "document", "source": URL | {"url": "https://known.example/a"}}
    on = {"window": 100}
    assert read(on=on, messages=[user(half, half, text("x" * 2000))])
    for block, here in ((half, "base64"), (fetched, "url")):
        assert read.refusal(on=on, messages=[user(half), user(half, block)]).startswith(
            f"messages.1.content.1.document.source.{here}: the documents up to this one hold "
        )
    error = read.refusal(on=on, messages=[user(half, half, half)])
    assert error.endswith(
        "2400 characters of text, far more than the model's window of 100 tokens; send less of them"
    )


def test_there_is_an_end_to_the_pixels_of_pictures(read: Any) -> None:
    """They are decoded all at once: a kilobyte may stand for megabytes."""
    shown_smaller, smaller = image(png(2000, 2000)), image(png(600, 700))
    assert read(on=SEES, messages=[user(*[shown_smaller] * 109)])
    assert read(on=SEES, messages=[user(*[smaller] * 600)])
    assert read.refusal(on=SEES, messages=[user(*[shown_smaller] * 110)]) == (
        "messages: Too much media: the images have more than 268435456 pixels as they are shown; "
        "send fewer or smaller ones"
    )


def test_a_picture_is_the_users(read: Any) -> None:
    for block in (image(), SEARCH, {"type": "container_upload", "file_id": "f"}):
        messages = [user(text("hi")), {"role": "assistant", "content": [block]}, user(text("a"))]
        assert read.refusal(messages=messages) == (
            f"messages.1.content.0: `{block['type']}` blocks can only be in `user` messages"
        )


def test_a_text_that_was_found_is_not_empty(read: Any) -> None:
    for found in ([text("")], [text("a"), text("")]):
        assert read.refusal(messages=[user(SEARCH | {"content": found})]) == (
            "messages: text content blocks must be non-empty"
        )
    assert read(messages=[user(SEARCH | {"content": [text("\n")]})])


# --- citations, and the rules of the current version -------------------------------------------


@pytest.mark.parametrize("block", [document(), SEARCH])
def test_citations_are_not_given_and_the_client_is_told(read: Any, block: dict[str, Any]) -> None:
    cited = user(block | {"citations": {"enabled": True}})
    assert read(messages=[cited]).ignored == ("citations",)
    assert read(messages=[user(block | {"citations": {"enabled": False}})]).ignored == ()
    assert read.refusal(on={"strict": True}, messages=[cited]) == (
        f"messages.0.content.0.{block['type']}.citations: m does not support citations"
    )
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert read.refusal(messages=[cited], output_config=form) == (
        "output_config.format: cannot be combined with citations"
    )


def test_the_current_version_wants_no_documents_in_answers(read: Any) -> None:
    messages = [user(text("hi")), {"role": "assistant", "content": [document(), document()]}]
    messages.append(user(text("a")))
    assert "Be it known." in read(messages=messages).conversation.messages[1].text
    assert read.refusal(on=CURRENT, messages=messages) == (
        "messages.1.content.0.document, messages.1.content.1.document: `document` blocks cannot be "
        "in `assistant` messages with anthropic-version 2026-10-21"
    )


def test_the_current_version_wants_no_citations_of_the_users(read: Any) -> None:
    cited = text("x", citations=[{"type": "char_location"}])
    result = {"type": "tool_result", "tool_use_id": "a", "content": [cited]}
    messages = [
        user(cited),
        {"role": "assistant", "content": [cited, CALL]},
        user(result, SEARCH | {"content": [cited]}),
    ]
    assert read(messages=messages)
    assert read.refusal(on=CURRENT, messages=messages) == (
        "messages.0.content.0.text.citations, "
        "messages.2.content.0.tool_result.content.0.text.citations, "
        "messages.2.content.1.search_result.content.0.citations: text in `user` messages cannot "
        "have citations with anthropic-version 2026-10-21"
    )
    assert read(on=CURRENT, messages=[user(text("x", citations=[]))])


@pytest.mark.parametrize("blank", [" ", "\n", "\t \r\n", "\u3000"])
def test_a_text_says_something(read: Any, blank: str) -> None:
    told = "messages: text content blocks must contain non-whitespace text"
    assert read.refusal(messages=[user(text(blank))]) == told
    assert read.refusal(messages=[{"role": "user", "content": blank}]) == told
    empty = "messages: text content blocks must be non-empty"
    assert read.refusal(messages=[user(text("a"), text(""))]) == empty
