"""Draws how training went, as SVG that stands inside a page and takes its colours from it.

Comes in: lines, each a name and its points. Goes out: the text of one `<svg>`. It refuses to know
where the points come from, and writes no file.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

POINTS = 400
"""More than these cannot be told apart on a screen; so many stretches are averaged."""
_FEW = 20
"""Points that stand apart from each other on a screen."""

# What the drawing is coloured with until the page's own colours take their place.
_INK = "#010203"
_LINES = tuple(f"#0000f{number}" for number in range(5))


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; what is not finite is left out."""

    name: str
    points: tuple[tuple[float, float], ...]


def draw(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = False,
    dots: bool = False,
    height: float = 3.4,
) -> str | None:
    """The curves in one frame, `log` with a logarithmic scale upwards, `dots` with one at each
    point of a line of few; None without a point."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogFormatter

    class Plain(LogFormatter):
        """Which marks have words is matplotlib's choice; the words are 0.2 and not 2 times 10 to
        the power of -1."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    shown = [(line.name, thinned(line.points, log=log)) for line in lines[: len(_LINES)]]
    shown = [(name, points) for name, points in shown if points]
    if not shown:
        return None
    # Letters stay letters, so that they take the page's font; the salt makes equal drawings equal.
    with rc_context(_STYLE | {"svg.hashsalt": f"{x}{y}{[name for name, _ in shown]}"}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        frame = figure.add_subplot()
        for colour, (name, points) in zip(_LINES, shown, strict=False):
            marker = "o" if dots and len(points) <= _FEW else None
            frame.plot(
                *zip(*points, strict=True),
                color=colour,
                label=name,
                linewidth=1.6,
                marker=marker,
                markersize=5,
            )
        frame.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
        frame.xaxis.set_major_formatter(EngFormatter(sep=""))
        if log:
            frame.yaxis.set_major_formatter(Plain())
            frame.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))
        frame.grid(color=_INK, alpha=0.12, linewidth=0.6)
        frame.spines[["top", "right"]].set_visible(False)
        if len(shown) > 1:
            frame.legend(frameon=False)
        text = io.StringIO()
        nobody = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nobody)
    described = f"{y} over {x}: {', '.join(name for name, _ in shown)}"
    return _inside_a_page(text.getvalue(), described)


_STYLE = {
    "svg.fonttype": "none",
    "font.size": 13,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.formatter.limits": (-4, 7),
}


def thinned(
    points: Sequence[tuple[float, float]], *, log: bool = False
) -> list[tuple[float, float]]:
    """At most `POINTS` points: the means of equal stretches."""
    good = [
        (x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)
    ]
    stretch = math.ceil(len(good) / POINTS) or 1
    parts = (good[start : start + stretch] for start in range(0, len(good), stretch))
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def _inside_a_page(svg: str, described: str) -> str:
    """The element alone, without addresses of any kind, in the colours of the page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href").replace(_INK, "currentColor")
    svg = re.sub(r"font(-family)?: ?[^;\"]*;? ?", _plain_font, svg)
    for number, colour in enumerate(_LINES):
        svg = svg.replace(colour, f"var(--line-{number})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(described)}"', 1)


def _plain_font(found: re.Match[str]) -> str:
    """The size that was chosen, in the font of the page."""
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}; " if size else ""
