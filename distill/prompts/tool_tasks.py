"""Conversations that call tools (`kind = "tools"`).

Comes in: a JSON file of tools, each with asks and results, or the packaged one. Goes out: tasks
with varied asks, several tools on offer, and now and then none that fits. The same file gives the
same tasks. It refuses to know which tasks are duplicates, and how calls are made.

An ask may hold places such as `{city}`, for each of which a tool lists `fillers`; a result of the
same tool may repeat them, and then speaks of what was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import ToolsSource
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    Tool,
    ToolChoice,
)

from .base import Task
from .making import make_task
from .reading import Unreadable, read_tool_list

_OTHERS = 3
"""The most tools on offer beside the one that is asked for."""
_UNFIT = 6
"""One task in so many offers no tool that fits: the teacher has to see that itself."""
_SHAPE = ("name", "description", "input_schema", "asks", "results", "fillers")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A tool, and what people want of it."""

    tool: Tool
    asks: tuple[str, ...]
    results: tuple[str, ...]
    fillers: Mapping[str, tuple[str, ...]]


def tool_tasks(source: ToolsSource) -> Iterator[Task]:
    """Tasks without end, some of them equal: whoever reads stops when there are enough, or when
    nothing new comes. Raises DistillError."""
    subjects = read_subjects(source.path)
    name = source.path if source.path == "packaged" else Path(source.path).name
    for number in count():
        # Each number has dice of its own, so that a run that goes on makes the same tasks again.
        dice = Random(_seed(number))  # noqa: S311 - varied, not secret
        yield _task(subjects, number, dice, source, f"tools {name}")


def _task(
    subjects: tuple[Subject, ...], number: int, dice: Random, source: ToolsSource, label: str
) -> Task:
    subject = subjects[number % len(subjects)]
    others = [each.tool for each in subjects if each is not subject]
    offered = dice.sample(others, min(len(others), dice.randint(1, _OTHERS)))
    fits = not offered or dice.randrange(_UNFIT) > 0
    if fits:
        offered = [*offered, subject.tool]
        dice.shuffle(offered)
    filled = {name: dice.choice(values) for name, values in subject.fillers.items()}
    ask = _filled(dice.choice(subject.asks), filled)
    result = _filled(dice.choice(subject.results), filled) if subject.results else ""
    scripted = fits and source.results == "scripted" and bool(result)
    return make_task(
        Conversation(
            tools=tuple(offered),
            messages=(Message(role="user", content=(TextBlock(text=ask),)),),
        ),
        source=label,
        kind="tools",
        tool_choice=ToolChoice(mode="any") if source.force and fits else None,
        results=(result,) if scripted else (),
    )


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Places without fillers stay as they are: a result may well be JSON."""
    return _PLACE.sub(lambda match: values.get(match.group(1), match.group()), text)


def _seed(number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"tools {number}".encode()).digest()[:8])


def read_subjects(path: str) -> tuple[Subject, ...]:
    """The tools of a file, or of the packaged one. Raises DistillError."""
    told = _packaged() if path == "packaged" else _loaded(Path(path))
    if not isinstance(told, list) or not told:
        raise DistillError(f"The tools {path} must be a JSON list that holds at least one tool.")
    subjects = tuple(_subject(each, f"{path}, tool {at}") for at, each in enumerate(told, start=1))
    names = [each.tool.name for each in subjects]
    if len(set(names)) < len(names):
        raise DistillError(f"The tools {path} have a name twice: give each a name of its own.")
    return subjects


def _packaged() -> Any:
    text = files("senryu.distill").joinpath("packaged", "tools.json").read_text(encoding="utf-8")
    return json.loads(text)


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistillError(f"There is no file {path}: correct its path in the recipe.") from None
    except OSError as problem:
        raise DistillError(f"The tools {path} cannot be read: {problem.strerror}.") from problem
    except (ValueError, RecursionError) as problem:
        raise DistillError(f"The tools {path} are not valid JSON: {problem}.") from None


def _subject(told: Any, where: str) -> Subject:
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        raise DistillError(f"{where} must be an object with a name, input_schema and asks.")
    where = f"{where} ({told['name']})"
    if unknown := sorted(told.keys() - set(_SHAPE)):
        raise DistillError(f"{where} has {unknown[0]!r}; it takes {', '.join(_SHAPE)}.")
    fields = {key: told[key] for key in ("name", "description", "input_schema") if key in told}
    try:
        (tool,) = read_tool_list([fields])
    except Unreadable as problem:
        raise DistillError(f"{where} is no tool that can be called: {problem}.") from None
    fillers = told.get("fillers", {})
    if not isinstance(fillers, dict):
        raise DistillError(f"{where} has fillers that are no object of lists.")
    return Subject(
        tool=tool,
        asks=_texts(told.get("asks"), f"{where}: asks", needed=True),
        results=_texts(told.get("results", []), f"{where}: results", needed=False),
        fillers={
            key: _texts(each, f"{where}: {key}", needed=True) for key, each in fillers.items()
        },
    )


def _texts(told: Any, where: str, *, needed: bool) -> tuple[str, ...]:
    good = isinstance(told, list) and all(isinstance(each, str) and each.strip() for each in told)
    if not good or (needed and not told):
        raise DistillError(f"{where} must be a list of texts{', at least one' * needed}.")
    return tuple(told)
