"""Draws a number for every part of every layer, as fields that are the darker the larger it is.

Comes in: rows of numbers with their names. Goes out: the text of one `<svg>` that takes its colours
from the page that it stands in. It refuses to know what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_ROW, _TEXT, _WIDTH = 22, 96, 640
_PALEST = 0.08


def fields(rows: Mapping[str, Mapping[int, float]], *, x: str, what: str) -> str | None:
    """One row a name, one field a number; None without any. `x` is what columns count and `what`
    the numbers are, in words."""
    values = [value for row in rows.values() for value in row.values()]
    if not values:
        return None
    columns = 1 + max(at for row in rows.values() for at in row)
    wide = (_WIDTH - _TEXT) / columns
    least, most = min(values), max(values)
    span = (most - least) or 1.0
    parts = []
    for number, (name, row) in enumerate(rows.items()):
        top = number * _ROW
        parts.append(_text(_TEXT - 8, top + 15, "end", name))
        for at, value in sorted(row.items()):
            shade = _PALEST + (1 - _PALEST) * (value - least) / span
            said = escape(f"{name}, {x} {at}: {value:.4f}")
            parts.append(
                f'<rect x="{_TEXT + at * wide:.1f}" y="{top + 1}" width="{max(wide - 1, 0.5):.1f}" '
                f'height="{_ROW - 2}" fill-opacity="{shade:.2f}"><title>{said}</title></rect>'
            )
    below = len(rows) * _ROW + 15
    step = max(1, -(-columns // 10))
    for at in range(0, columns, step):
        middle = _TEXT + (at + 0.5) * wide
        parts.append(_text(middle, below, "middle", str(at)))
    told = f"{x}; the palest field is {least:.3f}, the fullest {most:.3f}"
    parts.append(_text(_TEXT, below + 18, "start", told))
    described = escape(f"{what} by {x}: {', '.join(rows)}")
    return (
        f'<svg role="img" aria-label="{described}" viewBox="0 0 {_WIDTH} {below + 26}" '
        'fill="var(--line-1)" font-size="12">\n' + "\n".join(parts) + "\n</svg>"
    )


def _text(x: float, y: float, anchor: str, words: str) -> str:
    place = f'x="{x:.1f}" y="{y}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{escape(words)}</text>'
