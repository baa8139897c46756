"""Prompts from a log of Messages requests (`kind = "requests"`).

Comes in: a file with one JSON body a line, and the user's word that these may be learnt from.
Goes out: tasks, with secrets and personal data blanked (`redaction.py`). They are read as the
server reads requests; lines that are none, or that it would refuse, are counted and passed over.
It refuses to begin without `opt_in = true`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from senryu.distill.errors import DistillError
from senryu.distill.recipe import RecipeError, RequestsSource
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import read_object

from .base import Task
from .files import lines
from .making import make_task
from .reading import Unreadable, read_asked
from .redaction import redacted


def from_requests(source: RequestsSource, tally: Counter[str]) -> Iterator[Task]:
    """`tally["unreadable"]` counts the lines that were passed over, `tally["redacted"]` what was
    blanked. Raises DistillError."""
    if not source.opt_in:
        raise RecipeError(
            f"The recipe would learn from the requests in {source.path}: write `opt_in = true` "
            "beside the path if those who sent them agreed."
        )
    path = Path(source.path)
    used = 0
    for _, line in islice(lines(path), source.count):
        try:
            asked = read_asked(read_object(line))
        except (Unreadable, InvalidRequest):
            tally["unreadable"] += 1
            continue
        conversation, blanked = redacted(asked.conversation)
        tally["redacted"] += blanked
        used += 1
        yield make_task(
            conversation,
            source=f"requests {path.name}",
            kind="thinking" if asked.demands.thinking is not None else None,
            tool_choice=asked.demands.tool_choice,
        )
    if not used:
        raise DistillError(
            f"No line of {path} is a request of the Messages API with text alone: it takes one "
            "JSON body a line."
        )
