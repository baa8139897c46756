"""The text of a PDF comes from a child that cannot harm us, and is not read twice."""

import io
import subprocess
import sys
import time
from collections.abc import Callable

import pypdf
import pytest

from senryu.server.conversation.media import MediaError
from senryu.server.media.pdf import PdfReader

MakePdf = Callable[..., bytes]


@pytest.fixture
def reader() -> PdfReader:
    return PdfReader(most_pages=3)


def locked(pdf: bytes, *, user: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf))
    writer.encrypt(user_password=user, owner_password="owner", algorithm="AES-256")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_each_page_gives_its_text(reader: PdfReader, make_pdf: MakePdf) -> None:
    assert reader.pages(make_pdf("Bonjour, été", "", "the end")) == ["Bonjour, été", "", "the end"]


def test_a_pdf_is_read_once(
    reader: PdfReader, make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf = make_pdf("again")
    first = reader.pages(pdf)
    monkeypatch.setattr(subprocess, "run", None)
    assert reader.pages(pdf) == first


def test_what_is_remembered_is_bounded(make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PdfReader(most_pages=3)
    monkeypatch.setattr("senryu.server.media.pdf._REMEMBERED_CHARACTERS", 10)
    monkeypatch.setattr(reader, "_read_in_child", lambda data: [data.decode()])
    for text in (b"four", b"five", b"six"):
        reader.pages(text)
    monkeypatch.setattr(reader, "_read_in_child", lambda data: ["read again"])
    assert [reader.pages(text) for text in (b"six", b"five")] == [["six"], ["five"]]
    assert reader.pages(b"four") == ["read again"]


def test_a_pdf_behind_a_password_is_refused(reader: PdfReader, make_pdf: MakePdf) -> None:
    with pytest.raises(MediaError, match=r"^The PDF specified was password protected$"):
        reader.pages(locked(make_pdf("secret"), user="guess"))


def test_a_pdf_that_anybody_may_open_is_read(reader: PdfReader, make_pdf: MakePdf) -> None:
    assert reader.pages(locked(make_pdf("open"), user="")) == ["open"]


def test_too_many_pages_are_refused_with_the_most_there_may_be(
    reader: PdfReader, make_pdf: MakePdf
) -> None:
    with pytest.raises(MediaError, match=r"^A maximum of 3 PDF pages may be provided\.$"):
        reader.pages(make_pdf("1", "2", "3", "4"))


@pytest.mark.parametrize("data", [b"", b"no PDF at all", b"%PDF-1.4\n%%EOF", b"\0" * 1000])
def test_what_is_broken_is_refused(reader: PdfReader, data: bytes) -> None:
    with pytest.raises(MediaError, match=r"^Could not process PDF$"):
        reader.pages(data)


def test_a_child_that_takes_too_long_is_killed(make_pdf: MakePdf) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"^Could not process PDF$"):
        PdfReader(most_pages=3, wall_seconds=0.01).pages(make_pdf("slow"))
    assert time.monotonic() - began < 5


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
