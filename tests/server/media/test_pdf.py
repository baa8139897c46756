"""The text of a PDF comes from a child that cannot harm us, and is not read twice."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pypdf
import pytest

from senryu.server.conversation.media import MediaError
from senryu.server.media.pdf import PdfReader

MakePdf = Callable[..., bytes]
Pages = Callable[[bytes], list[str]]


@pytest.fixture
def reader() -> PdfReader:
    return PdfReader(most_pages=3)


@pytest.fixture
def read(reader: PdfReader) -> Pages:
    return partial(reader.pages, seconds=60)


def locked(pdf: bytes, *, user: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf))
    writer.encrypt(user_password=user, owner_password="owner", algorithm="AES-256")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def refusal(read: Pages, pdf: bytes) -> str:
    with pytest.raises(MediaError) as caught:
        read(pdf)
    return str(caught.value)


def test_each_page_gives_its_text(read: Pages, make_pdf: MakePdf) -> None:
    assert read(make_pdf("Bonjour, été", "", "the end")) == ["Bonjour, été", "", "the end"]


def test_a_pdf_is_read_once(
    read: Pages, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf = make_pdf("again")
    first = read(pdf)
    monkeypatch.setattr(subprocess, "run", None)
    assert read(pdf) == first


def test_a_pdf_that_cannot_be_read_is_tried_once(
    read: Pages, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdfs = (b"no PDF at all", make_pdf("1", "2", "3", "4"), locked(make_pdf("x"), user="guess"))
    first = [refusal(read, pdf) for pdf in pdfs]
    monkeypatch.setattr(subprocess, "run", None)
    assert [refusal(read, pdf) for pdf in pdfs] == first


@pytest.mark.parametrize("text", ["four", ""], ids=["texts", "PDFs of nothing"])
def test_what_is_remembered_is_bounded(
    text: str, reader: PdfReader, read: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.server.media.pdf._REMEMBERED_CHARACTERS", 600)
    monkeypatch.setattr(reader, "_read_in_child", lambda *_: [text])
    for data in (b"1", b"2", b"3"):
        read(data)
    monkeypatch.setattr(reader, "_read_in_child", lambda *_: ["read again"])
    assert [read(data) for data in (b"3", b"2")] == [[text], [text]]
    assert read(b"1") == ["read again"]


def test_a_pdf_behind_a_password_is_refused(read: Pages, make_pdf: MakePdf) -> None:
    with pytest.raises(MediaError, match=r"^The PDF specified was password protected$"):
        read(locked(make_pdf("secret"), user="guess"))


def test_a_pdf_that_anybody_may_open_is_read(read: Pages, make_pdf: MakePdf) -> None:
    assert read(locked(make_pdf("open"), user="")) == ["open"]


def test_too_many_pages_are_refused_with_the_most_there_may_be(
    read: Pages, make_pdf: MakePdf
) -> None:
    with pytest.raises(MediaError, match=r"^A maximum of 3 PDF pages may be provided\.$"):
        read(make_pdf("1", "2", "3", "4"))


@pytest.mark.parametrize("data", [b"", b"no PDF at all", b"%PDF-1.4\n%%EOF", b"\0" * 1000])
def test_what_is_broken_is_refused(read: Pages, data: bytes) -> None:
    with pytest.raises(MediaError, match=r"^Could not process PDF$"):
        read(data)


def test_a_child_that_takes_too_long_is_killed(reader: PdfReader, make_pdf: MakePdf) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"^Could not process PDF$"):
        reader.pages(make_pdf("slow"), seconds=0.01)
    assert time.monotonic() - began < 5
    assert reader.pages(make_pdf("slow"), seconds=60) == ["slow"]


@pytest.mark.parametrize(
    ("limit", "greed"),
    [
        ("_CPU_SECONDS = 1", "while True: pass"),
        ("_MEMORY_BYTES = 2**28", "bytearray(2**29)"),
    ],
    ids=["time", "memory"],
)
def test_the_kernel_ends_a_child_that_wants_too_much(limit: str, greed: str) -> None:
    program = (
        "import sys; from senryu.server.media import pdf_child\n"
        f"pdf_child.{limit}\n"
        "def read(*_, **__):\n"
        f"    {greed}\n"
        "pdf_child.read = read\n"
        "sys.argv = ['', '3']\n"
        "pdf_child.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"", capture_output=True)
    assert done.returncode != 0
    assert done.stdout == b""
