"""A page needs nothing beside it, and shows words as words."""

from html.parser import HTMLParser

import pytest

from senryu.distill.page import (
    Card,
    Cards,
    Drawing,
    Part,
    Section,
    SideBySide,
    Table,
    Text,
    Verbatim,
    page,
)

EVIL = "<script>alert('&\"')</script>"
PARTS: tuple[Part, ...] = (
    Cards((Card(EVIL, EVIL, EVIL), Card("plain", "1"))),
    Table((EVIL, EVIL), ((EVIL, EVIL),), caption=EVIL),
    Text(EVIL),
    Verbatim(EVIL, EVIL),
    SideBySide(asked=EVIL, answers=((EVIL, EVIL),), remarks=(EVIL,)),
    Drawing("<svg></svg>", EVIL),
)
VOID = {"meta", "br", "img", "link", "input"}


class Outline(HTMLParser):
    """The elements of a page; complains of what is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    read = Outline()
    read.feed(text)
    read.close()
    assert not read.open
    return read


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_words_stay_words(part: Part) -> None:
    """Whatever a model wrote, none of it becomes a part of the page."""
    told = page(EVIL, EVIL, [Section(EVIL, (part,))], foot=EVIL)
    read = outline(told)
    assert "script" not in read.seen
    assert told.count("&lt;script&gt;") >= 5


def test_nothing_is_fetched() -> None:
    told = page("it", "", [Section("all", PARTS)])
    assert not outline(told).fetched
    assert "http" not in told
    assert "url(" not in told
    assert "@import" not in told


def test_it_is_made_for_a_phone_and_for_the_dark() -> None:
    told = page("it", "", [])
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in told
    assert "prefers-color-scheme: dark" in told
    assert "overflow-x: auto" in told  # wide tables scroll by themselves
    assert '<html lang="en">' in told


def test_tables_name_their_columns_and_rows() -> None:
    told = page("it", "", [Section("t", (Table(("", "a"), (("one", "1"),)),))])
    assert '<th scope="col">a</th>' in told
    assert '<th scope="row">one</th><td>1</td>' in told


def test_an_interval_stays_in_one_piece() -> None:
    table = Table(("run", "KL"), (("ours", "2.1 (1.9 to 2.3)"), ("<b>", "<i> (b) c")))
    told = page("t", "s", [Section("x", (table,))])
    assert "<td>2.1 <span>(1.9 to 2.3)</span></td>" in told
    assert "<td>&lt;i&gt; (b) c</td>" in told
