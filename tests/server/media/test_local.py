"""The media of a server do what its settings allow, for a window of the model's size."""

import base64
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from senryu.server.conversation.media import File, FileMissing, Media, MediaError
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.media.fetching import Fetcher
from senryu.server.media.local import LocalMedia, media_opener
from senryu.server.media.pdf import PdfReader
from senryu.server.settings import ServerSettings

MakePdf = Callable[..., bytes]


def opened(*, window: int = 8192, **settings: bool) -> Media:
    return media_opener(ServerSettings(**settings), window=window)()  # type: ignore[arg-type]


def test_urls_are_fetched_only_where_the_operator_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MediaError, match=r"^url sources are off on this server; .* base64$"):
        opened().fetch("https://pictures.example/", "image")
    monkeypatch.setattr(Fetcher, "fetch", lambda *_: ("image/png", b""))
    assert opened(fetch_media=True).fetch("https://pictures.example/", "image")[0] == "image/png"


def test_a_file_is_looked_for_where_there_are_files_and_in_the_time_that_is_left() -> None:
    with pytest.raises(FileMissing, match=r"^File not found: file_1: this server keeps no files$"):
        opened().file("file_1")
    kept, asked = File(media_type="text/plain", size=1, read=lambda: b"x"), []

    def find(file_id: str, seconds: float) -> File:
        asked.append((file_id, 0 < seconds <= 60))
        return kept

    media = media_opener(ServerSettings(), window=8192)(files=find)
    assert media.file("file_1") is kept
    assert asked == [("file_1", True)]


def test_a_small_window_takes_a_hundred_pages(make_pdf: MakePdf) -> None:
    pdf = make_pdf(*["page"] * 101)
    with pytest.raises(MediaError, match="A maximum of 100 PDF pages"):
        opened(window=200_000).pdf_pages(pdf)
    assert len(opened(window=200_001).pdf_pages(pdf)) == 101


def test_the_media_of_a_request_share_their_time(make_pdf: MakePdf) -> None:
    pdfs = PdfReader(most_pages=1)
    assert LocalMedia(pdfs, fetches=True).pdf_pages(make_pdf("in time")) == ["in time"]
    media = LocalMedia(pdfs, fetches=True, seconds=0.01)
    with pytest.raises(MediaError, match=r"^Could not process PDF$"):
        media.pdf_pages(make_pdf("too late"))
    late = "^the media of this request take longer than 0.01 seconds to read; send fewer$"
    with pytest.raises(MediaError, match=late):
        media.pdf_pages(make_pdf("in time"))
    with pytest.raises(MediaError, match=late):
        media.fetch("https://pictures.example/", "image")


def test_plain_text_costs_none_of_the_libraries() -> None:
    program = (
        "import sys; from senryu.server.app import build_app\n"
        "heavy = {'pypdf', 'PIL', 'senryu.server.media.fetching'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_model_that_does_not_see_reads_the_text_of_a_pdf(
    client: httpx.AsyncClient, make_pdf: MakePdf
) -> None:
    async def counted(*pages: str) -> int:
        data = base64.b64encode(make_pdf(*pages)).decode()
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
        content = [{"type": "document", "source": source}, {"type": "text", "text": "Sum it up."}]
        body = {"model": "scripted", "messages": [{"role": "user", "content": content}]}
        reply = await client.post("/v1/messages/count_tokens", json=body)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["input_tokens"])

    assert await counted("four words on it") - await counted("x") == len("four words on it") - 1


async def test_a_pdf_that_no_window_of_the_model_takes_is_not_counted(
    client_for: Callable[..., httpx.AsyncClient], make_pdf: MakePdf
) -> None:
    data = base64.b64encode(make_pdf("x" * 1601)).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    content = [{"type": "document", "source": source}]
    body = {"model": "scripted", "messages": [{"role": "user", "content": content}]}
    for window, status in ((101, 200), (100, 400)):
        client = client_for(ScriptedEngine(window=window))
        reply = await client.post("/v1/messages/count_tokens", json=body)
        assert reply.status_code == status
    assert "far more than the model's window of 100 tokens" in reply.json()["error"]["message"]


async def test_a_pdf_of_pictures_alone_is_refused_with_its_place(
    client: httpx.AsyncClient, body: dict[str, Any], make_pdf: MakePdf
) -> None:
    data = base64.b64encode(make_pdf("", "")).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    body["messages"][0]["content"] = [{"type": "document", "source": source}]
    reply = await client.post("/v1/messages", json=body)
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert message.startswith("messages.0.content.0.document")
    assert "does not support PDF input" in message
