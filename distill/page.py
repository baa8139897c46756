"""A page that needs nothing beside it: one HTML file with its style and its drawings inside.

Comes in: a title and parts, as plain values. Goes out: the text of the file. Every word that comes
in is escaped; only a drawing is taken as it is. It refuses to know what the figures mean, so that
any room can show its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cards:
    """Headline figures in a row, or below each other where it is narrow."""

    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words. The first column names the row; the others stand to the right where
    `numbers` is set."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numbers: bool = True


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG that we made ourselves: it goes in as it is."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text as it was written, behind a line that opens it."""

    title: str
    words: str


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Texts to be compared: what they answer, then each with its name and remarks."""

    asked: str
    answers: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...] = ()


Part = Cards | Table | Drawing | Text | Verbatim | SideBySide


@dataclass(frozen=True, slots=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: tuple[Part, ...]


def page(title: str, subtitle: str, sections: Sequence[Section], *, foot: str = "") -> str:
    """The whole file."""
    body = "\n".join(
        f"<section>\n<h2>{escape(each.title)}</h2>\n{_join(map(_part, each.parts))}\n</section>"
        for each in sections
    )
    return _FRAME.format(
        title=escape(title), subtitle=escape(subtitle), style=_STYLE, body=body, foot=escape(foot)
    )


def _part(part: Part) -> str:
    match part:
        case Cards():
            return f'<div class="cards">\n{_join(map(_card, part.cards))}\n</div>'
        case Table():
            return _table(part)
        case Drawing():
            caption = f"<figcaption>{escape(part.caption)}</figcaption>"
            return f"<figure>\n{part.svg}\n{caption}\n</figure>"
        case Text():
            return f"<p>{escape(part.words)}</p>"
        case Verbatim():
            summary = f"<summary>{escape(part.title)}</summary>"
            return f"<details>\n{summary}\n<pre>{escape(part.words)}</pre>\n</details>"
        case SideBySide():
            return _side_by_side(part)
        case _:
            assert_never(part)


def _card(card: Card) -> str:
    note = f"<small>{escape(card.note)}</small>" if card.note else ""
    value = f"<strong>{escape(card.value)}</strong>"
    return f'<div class="card"><span>{escape(card.label)}</span>{value}{note}</div>'


def _table(table: Table) -> str:
    kind = ' class="numbers"' if table.numbers else ""
    caption = f"<caption>{escape(table.caption)}</caption>\n" if table.caption else ""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in table.columns)
    rows = _join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{_cell(each)}</td>" for each in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    return (
        f'<div class="wide"><table{kind}>\n{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(words: str) -> str:
    """What ends in brackets may be broken before them, and not within."""
    return re.sub(r" (\([^()]*\))$", r" <span>\1</span>", escape(words))


def _side_by_side(part: SideBySide) -> str:
    columns = _join(
        f"<div><h4>{escape(name)}</h4><pre>{escape(text)}</pre></div>"
        for name, text in part.answers
    )
    remarks = "".join(f"<li>{escape(each)}</li>" for each in part.remarks)
    remarks = f'<ul class="remarks">{remarks}</ul>' if remarks else ""
    return (
        f'<article>\n<h3>Asked</h3><pre class="asked">{escape(part.asked)}</pre>\n'
        f'<div class="beside">\n{columns}\n</div>{remarks}\n</article>'
    )


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)


_FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{subtitle}</p>
</header>
<main>
{body}
</main>
<footer>{foot}</footer>
</body>
</html>
"""

# The colours of lines are those of Okabe and Ito, which the colour-blind can tell apart.
_STYLE = """\
:root {
  --paper: #fdfdfb; --ink: #1d1f21; --faint: #6a6f75; --edge: #dcdcd6; --raised: #f4f4ef;
  --line-0: #0072b2; --line-1: #d55e00; --line-2: #009e73; --line-3: #8a5a83; --line-4: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181a; --ink: #e6e6e2; --faint: #9aa0a6; --edge: #34383c; --raised: #1f2225;
    --line-0: #56b4e9; --line-1: #e69f00; --line-2: #2fc79b; --line-3: #cc79a7; --line-4: #f0e442;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3, h4 { font-size: .85rem; color: var(--faint); margin: 0 0 .25rem; }
header p, footer, small, caption, figcaption { color: var(--faint); }
header p { margin: .25rem 0 0; }
footer { margin-top: 3rem; font-size: .85rem; }
.cards {
  display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr));
}
.card, article {
  background: var(--raised); border: 1px solid var(--edge); border-radius: .5rem;
  padding: .75rem 1rem;
}
.card > * { display: block; }
.card strong { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
/* A shade at the side where there is more: the two covers scroll away with the table. */
.wide {
  overflow-x: auto; margin: 0 0 1rem;
  background:
    linear-gradient(to right, var(--paper) 50%, transparent) left / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 50%, transparent) right / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--edge), transparent) left / .75rem 100% no-repeat scroll,
    linear-gradient(to left, var(--edge), transparent) right / .75rem 100% no-repeat scroll;
}
table { border-collapse: collapse; min-width: 100%; font-size: .9rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--edge); }
th { font-weight: 600; min-width: 5rem; }
td { overflow-wrap: anywhere; }
tr > :last-child { padding-right: 0; }
.numbers td, .numbers thead th:not(:first-child) {
  text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal;
}
.numbers td:not(:has(span)) { white-space: nowrap; }
.numbers thead th:not(:first-child) { min-width: 0; }
.numbers td span { color: var(--faint); white-space: nowrap; }
figure { margin: 0 0 1.5rem; max-width: 46rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; }
pre {
  margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.45 ui-monospace, monospace;
}
article { margin: 0 0 1rem; }
.asked { margin-bottom: .75rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.remarks { margin: .75rem 0 0; padding-left: 1.2rem; font-size: .85rem; color: var(--faint); }
details { border: 1px solid var(--edge); border-radius: .5rem; padding: .5rem 1rem; }
summary { cursor: pointer; }
details pre { margin-top: .5rem; }
"""
