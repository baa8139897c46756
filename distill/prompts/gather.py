"""Gathers the prompts of a recipe into prompts.jsonl, and goes on where a run was stopped.

Comes in: a recipe. Goes out: its tasks, without duplicates, each on one side: trained on, or held
out to be measured with. What comes first stays; what repeats it, or shares a run of words with the
other side, is counted and left out. It refuses to know how a source works, and opens the teacher
only when one needs it and something is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import assert_never

from senryu.distill.errors import DistillError
from senryu.distill.recipe import (
    DatasetSource,
    FileSource,
    PromptSource,
    Recipe,
    RequestsSource,
    SelfSource,
    ToolsSource,
)
from senryu.distill.teachers.base import Teacher
from senryu.quant.progress import Progress

from .base import Task
from .contamination import Sides
from .duplicates import Distinct, words
from .ledger import AnotherRecipe, Ledger
from .making import share_of, users_words

OpenTeacher = Callable[[], Awaitable[Teacher]]

_TRIES = 5
"""Turns that the teacher may write for each prompt that is wanted of it."""
_FRUITLESS = 500
"""After so many tool tasks in a row that are nothing new the file holds no more."""


async def gather(
    recipe: Recipe, file: Path, open_teacher: OpenTeacher, progress: Progress
) -> list[Task]:
    """All tasks of the recipe, also those that were in the file. The teacher stays open: whoever
    opened it goes on to ask it. Raises DistillError; what was gathered stays in the file."""
    sources = recipe.sources
    with Ledger(file, _digest(recipe)) as ledger:
        progress.begin(sum(_wanted(source) or 1 for source in sources))
        sieve = _Sieve(recipe, ledger)
        for place, source in enumerate(sources):
            if place < ledger.finished:
                for _ in range(_wanted(source) or 1):
                    progress.done()
                continue
            progress.stage(f"prompts: {_label(source)}")
            work = _Source(recipe, source, sieve, progress)
            await work.read(place, open_teacher)
            progress.say(f"  {work.told()}")
            ledger.finish(_label(source), work.tally)
        tasks = ledger.tasks
    _say_all(tasks, recipe, progress)
    return tasks


def gathered(recipe: Recipe, file: Path) -> list[Task] | None:
    """The tasks of a file that was gathered to its end for this recipe; None for another file.
    Raises DistillError for a damaged one."""
    if not file.exists():
        return None
    try:
        with Ledger(file, _digest(recipe)) as ledger:
            return ledger.tasks if ledger.finished == len(recipe.sources) else None
    except AnotherRecipe:
        return None


def _say_all(tasks: list[Task], recipe: Recipe, progress: Progress) -> None:
    if not tasks:
        raise DistillError("The recipe's sources gave no prompt at all: add one that holds some.")
    held_out = sum(task.held_out for task in tasks)
    progress.say(f"  {_prompts(len(tasks))}, {held_out} of them held out")
    if recipe.evaluate.held_out and not 0 < held_out < len(tasks):
        missing = "nothing to measure with" if not held_out else "nothing to train on"
        progress.say(f"  So few prompts leave {missing}: add some, or change evaluate.held_out.")


def _digest(recipe: Recipe) -> str:
    """What the prompts depend on: a recipe that differs in nothing else goes on with the file."""
    made_up = any(isinstance(source, SelfSource) for source in recipe.sources)
    told = {
        "prompts": [dataclasses.asdict(source) for source in recipe.sources],
        "teacher": recipe.teacher.model if made_up else None,
        "near_duplicates": recipe.collect.near_duplicates,
        "contamination": recipe.collect.contamination,
        "held_out": recipe.evaluate.held_out,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class _Sieve:
    """Keeps what is new and stands on one side only."""

    def __init__(self, recipe: Recipe, ledger: Ledger) -> None:
        self._recipe = recipe
        self._ledger = ledger
        self._distinct = Distinct(recipe.collect.near_duplicates)
        self._sides = Sides(recipe.collect.contamination)
        for task in ledger.tasks:
            self._remember(task, words(users_words(task.conversation)))
        self.earlier = {task.id for task in ledger.under_way}
        """Tasks of a run that was stopped: met again in their source, they are no duplicates."""

    def take(self, task: Task) -> str:
        """What becomes of it: `gathered`, or why not."""
        if task.id in self.earlier:
            self.earlier.discard(task.id)
            return "gathered"
        text = words(users_words(task.conversation))
        match self._distinct.repeated(text):
            case "exact":
                return "duplicates"
            case "near":
                return "near duplicates"
        # The digest alone decides, so a prompt keeps its side when others join or leave.
        held_out = share_of(task.id) < self._recipe.evaluate.held_out
        if self._sides.shared(text, held_out=held_out):
            return "that share words with the other side of the evaluation"
        task = dataclasses.replace(task, held_out=held_out)
        self._ledger.append(task)
        self._remember(task, text)
        return "gathered"

    def _remember(self, task: Task, text: list[str]) -> None:
        self._distinct.add(text)
        self._sides.add(text, held_out=task.held_out)


class _Source:
    """Reads one source to its end, or until it gave what is wanted."""

    def __init__(
        self, recipe: Recipe, source: PromptSource, sieve: _Sieve, progress: Progress
    ) -> None:
        self._recipe = recipe
        self._source = source
        self._sieve = sieve
        self._progress = progress
        self.tally: Counter[str] = Counter()

    async def read(self, place: int, open_teacher: OpenTeacher) -> None:
        wanted = _wanted(self._source)
        if not isinstance(self._source, SelfSource):
            await self._drain(_one_by_one(self._plain()), wanted)
        else:
            self.tally["gathered"] = kept = len(self._sieve.earlier)
            self._sieve.earlier.clear()
            for _ in range(kept):
                self._progress.done()
            if kept < self._source.count:
                # Other seeds than those of the run that was stopped, which would bring its
                # prompts again.
                salt = f"{place} {kept}"
                await self._drain(self._made_up(self._source, await open_teacher(), salt), wanted)
                self._check_some(self._source)
        for _ in range((wanted or 1) - (self.tally["gathered"] if wanted else 0)):
            self._progress.done()

    async def _drain(self, tasks: AsyncIterator[Task], wanted: int | None) -> None:
        fruitless = 0
        async with aclosing(tasks) as opened:  # type: ignore[type-var]
            if wanted == 0:
                return
            async for task in opened:
                fate = self._sieve.take(task)
                self.tally[fate] += 1
                if fate == "gathered":
                    fruitless = 0
                    if wanted:
                        self._progress.done()
                    if self.tally["gathered"] == wanted:
                        return
                    continue
                fruitless += 1
                if fruitless == _FRUITLESS and isinstance(self._source, ToolsSource):
                    return

    def _made_up(self, source: SelfSource, teacher: Teacher, salt: str) -> AsyncIterator[Task]:
        from .self_synthesis import made_up

        missing = source.count - self.tally["gathered"]
        return made_up(
            source,
            teacher,
            streams=self._recipe.teacher.streams,
            salt=salt,
            tries=_TRIES * missing + 50,
            tally=self.tally,
        )

    def _plain(self) -> Iterator[Task]:
        # Each kind brings libraries of its own, and is opened when a recipe names it.
        source = self._source
        match source:
            case FileSource():
                from .files import from_file

                return from_file(source)
            case DatasetSource():
                from .dataset import from_dataset

                return from_dataset(source, self.tally)
            case RequestsSource():
                from .requests import from_requests

                return from_requests(source, self.tally)
            case ToolsSource():
                from .tool_tasks import tool_tasks

                return tool_tasks(source)
            case SelfSource():
                raise AssertionError("the teacher makes these up")
        assert_never(source)

    def _check_some(self, source: SelfSource) -> None:
        if source.count and not self.tally["gathered"]:
            raise DistillError(
                f"The teacher made up no prompt that can be used ({self.told()}): give prompts in "
                "a file, or another teacher."
            )

    def told(self) -> str:
        """In words what was found."""
        wanted, gathered = _wanted(self._source), self.tally["gathered"]
        first = _prompts(gathered)
        if wanted and gathered < wanted:
            first = f"{gathered} of the {wanted} prompts that are wanted"
        others = [
            f"{count} {name}" for name, count in sorted(self.tally.items()) if name != "gathered"
        ]
        return f"{_label(self._source)}: " + ", ".join([first, *others])


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'}"


async def _one_by_one(tasks: Iterator[Task]) -> AsyncIterator[Task]:
    for task in tasks:
        yield task


def _wanted(source: PromptSource) -> int | None:
    """How many tasks it is to give; None where the source itself ends."""
    return source.count if isinstance(source, SelfSource | ToolsSource) else None


def _label(source: PromptSource) -> str:
    match source:
        case SelfSource():
            return "self"
        case DatasetSource():
            return f"dataset {source.name}"
        case FileSource() | RequestsSource() | ToolsSource():
            return f"{source.kind} {Path(source.path).name}"
    assert_never(source)
