"""The media of a server do what its settings allow, for a window of the model's size."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from senryu.server.conversation.media import Media, MediaError
from senryu.server.media.fetching import Fetcher
from senryu.server.media.local import open_media
from senryu.server.settings import ServerSettings

MakePdf = Callable[..., bytes]


def opened(*, window: int = 8192, **settings: bool) -> Media:
    return open_media(ServerSettings(**settings), window=window)  # type: ignore[arg-type]


def test_urls_are_fetched_only_where_the_operator_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MediaError, match=r"^url sources are off on this server; .* base64$"):
        opened().fetch("https://pictures.example/", "image")
    monkeypatch.setattr(Fetcher, "fetch", lambda *_: ("image/png", b""))
    assert opened(fetch_media=True).fetch("https://pictures.example/", "image")[0] == "image/png"


def test_a_small_window_takes_a_hundred_pages(make_pdf: MakePdf) -> None:
    pdf = make_pdf(*["page"] * 101)
    with pytest.raises(MediaError, match="A maximum of 100 PDF pages"):
        opened(window=200_000).pdf_pages(pdf)
    assert len(opened(window=200_001).pdf_pages(pdf)) == 101


def test_plain_text_costs_none_of_the_libraries() -> None:
    program = (
        "import sys; from senryu.server.app import build_app\n"
        "heavy = {'pypdf', 'PIL', 'senryu.server.media.fetching'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
