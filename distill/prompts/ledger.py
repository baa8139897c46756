"""The file prompts.jsonl: what was gathered so far, and how far the sources were read.

Comes in: tasks, one by one. Goes out: the same after a stop, be it a kill. The file only grows: a
first line with the digest of the recipe it belongs to, a task a line, and behind the tasks of each
source a line that says it was read to its end. A last line without its end was torn, and is cut
off. It refuses to know which tasks are worth keeping.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from senryu.distill.errors import DistillError

from .base import Task
from .wire import task_from_json, task_to_json, whole_letters


class AnotherRecipe(DistillError):
    """The file is whole, and not of this recipe."""


class Ledger:
    """An open prompts.jsonl; use it with `with`. Everything here raises DistillError when the file
    is another recipe's, is damaged, or cannot be written."""

    def __init__(self, file: Path, digest: str) -> None:
        self._file = file
        self.tasks: list[Task] = []
        """All of them, in their order."""
        self.under_way: list[Task] = []
        """Those of the source that was not read to its end."""
        self.finished = 0
        """How many sources were."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._opened = file.open("a+b", buffering=0)
            self._opened.seek(0)
            lines = self._opened.read().split(b"\n")
            torn = lines.pop()
            if torn:
                self._opened.truncate(self._opened.tell() - len(torn))
        except OSError as problem:
            raise self._unusable(problem) from problem
        try:
            self._take_in(lines, digest)
            if not lines:
                self._write({"recipe": digest})
        except BaseException:
            self._opened.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def append(self, task: Task) -> None:
        """A kill of this process costs nothing that was appended."""
        told = task_to_json(task)
        whole = whole_letters(told)
        if whole != told:  # UTF-8 could not spell it; its id stays the one that it was met by
            told, task = whole, task_from_json(whole)
        self._write(told)
        self.tasks.append(task)
        self.under_way.append(task)

    def finish(self, source: str, counts: Mapping[str, int]) -> None:
        """The source was read to its end; `counts` are for people."""
        self._write({"finished": source, "counts": dict(counts)})
        self.finished += 1
        self.under_way = []
        try:
            os.fsync(self._opened.fileno())
        except OSError as problem:
            raise self._unusable(problem) from problem

    def _take_in(self, lines: list[bytes], digest: str) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                told = json.loads(line)
                if number == 1:
                    self._check_recipe(told["recipe"], digest)
                elif "finished" in told:
                    self.finished += 1
                    self.under_way = []
                else:
                    task = task_from_json(told)
                    self.tasks.append(task)
                    self.under_way.append(task)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                raise DistillError(
                    f"{self._file}, line {number} is damaged: delete the file to have the prompts "
                    "gathered anew, or put the line right."
                ) from None

    def _check_recipe(self, told: Any, digest: str) -> None:
        if told != digest:
            raise AnotherRecipe(
                f"{self._file} was gathered for another recipe (its prompts, its filters, the "
                "share that is held out, or the teacher that made prompts up): give another --out, "
                "or delete the file to gather anew."
            )

    def _write(self, told: Mapping[str, Any]) -> None:
        line = json.dumps(told, ensure_ascii=False).encode() + b"\n"
        try:
            while line:
                line = line[self._opened.write(line) :]
        except OSError as problem:
            raise self._unusable(problem) from problem

    def _unusable(self, problem: OSError) -> DistillError:
        return DistillError(
            f"{self._file} cannot be written ({problem.strerror}): make room, and start again; "
            "what was gathered is kept."
        )
