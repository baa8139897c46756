"""How training went, step by step: `curve.jsonl`, one JSON object a line.

Comes in: a `Point` after each step. Goes out: the file, and all of it again on request. It refuses
to know how a step is made.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

NAME = "curve.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One step."""

    step: int
    """Steps done, this one included."""
    tokens: int
    """Tokens read since the beginning."""
    loss: float
    """What was minimised, in nats a token."""
    sft: float
    """Cross-entropy on the tokens that were written."""
    kl: float | None
    """Forward KL to the teacher, on the stored tokens; None where only text is known."""
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds: float
    """Since the beginning, pauses left out."""
    on_policy: bool = False
    """Whether the student wrote this step's answers."""


class Curve:
    """The file. A line is appended after each step; what a killed run left beyond its checkpoint
    is cut off when it goes on."""

    def __init__(self, folder: Path, *, steps: int) -> None:
        self._file = folder / NAME
        kept = [each for each in read(folder) if each.step <= steps]
        partial = self._file.with_suffix(".partial")
        partial.write_text("".join(_line(each) for each in kept), encoding="utf-8")
        os.replace(partial, self._file)

    def add(self, point: Point) -> None:
        with self._file.open("a", encoding="utf-8") as opened:
            opened.write(_line(point))


def read(folder: Path) -> list[Point]:
    """All points, up to a line that was only half written."""
    points: list[Point] = []
    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return points
    for line in lines:
        try:
            points.append(Point(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return points


def _line(point: Point) -> str:
    return json.dumps(dataclasses.asdict(point)) + "\n"
