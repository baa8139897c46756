"""Runs a recipe: prompts, answers, training, refinement, measuring, each once.

Comes in: a recipe and a folder. Goes out: the folder, filled, and a few figures. What lies there is
taken as done; so an interrupted run goes on where it stopped. It refuses to know how any stage
works, and only hands each what the one before it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senryu.quant.progress import Progress

from .errors import DistillError
from .recipe import Recipe, read_recipe
from .stages import Workshop

STAGES = ("prompts", "collect", "train", "evaluate")
# What each stage's result depends on: when one of these changes, what lies there is of another
# recipe. Evaluation is cheap and done anew each time.
_DEPENDS = {
    "prompts": ("teacher", "prompts"),
    "collect": ("teacher", "prompts", "collect"),
    "train": ("teacher", "prompts", "collect", "student", "train", "refine"),
}


@dataclass(slots=True)
class Diary:
    """`run.json`: which stages have begun, with which recipe, and which have ended."""

    file: Path
    begun: dict[str, str] = field(default_factory=dict)
    """Stage -> digest of the recipe's parts that it depends on."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds of work, over all attempts."""
    ended: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Diary:
        try:
            return cls(file=file, **json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(file=file)
        except (TypeError, ValueError) as problem:
            raise DistillError(
                f"{file} is damaged ({problem}): delete it; what each stage has stored stays."
            ) from problem

    def write(self) -> None:
        told = {"begun": self.begun, "seconds": self.seconds, "ended": self.ended}
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(told, indent=2), encoding="utf-8")
        os.replace(partial, self.file)

    def begin(self, stage: str, recipe: Recipe) -> None:
        """Raises DistillError where the stage was begun with another recipe."""
        digest = recipe.digest(*_DEPENDS[stage])
        if self.begun.setdefault(stage, digest) != digest:
            raise DistillError(
                f"{self.file.parent} holds the stage {stage!r} of another recipe: give another "
                "--out, or put the recipe back as recipe.toml there has it."
            )
        self.write()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the work on a stage; it has ended when no exception left it."""
        begun = time.monotonic()
        try:
            yield
            self.ended = [*self.ended, stage] if stage not in self.ended else self.ended
        finally:
            spent = self.seconds.get(stage, 0.0) + time.monotonic() - begun
            self.seconds[stage] = round(spent, 1)
            self.write()


def run(
    recipe_file: Path,
    out: Path,
    *,
    only: str | None,
    beside: tuple[Path, ...],
    progress: Progress,
) -> dict[str, Any]:
    """All stages, or `only` one; where it lies and the figures. Raises DistillError."""
    recipe = read_recipe(recipe_file)
    with _disk_sentences(out):
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            diary = Diary.read(out / "run.json")
            work = Workshop(recipe=recipe, out=out, progress=progress)
            stages = [only] if only else list(STAGES)
            job = Run(work=work, diary=diary)
            job.refuse_gaps(stages[0])
            for other in beside:
                job.take_samples(other)
            job.begin(stages)
            (out / "recipe.toml").write_bytes(recipe_file.read_bytes())
            return job.go(stages, beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recipe in one folder."""

    work: Workshop
    diary: Diary

    def refuse_gaps(self, first: str) -> None:
        """Raises DistillError when a stage before `first` has not ended."""
        for stage in STAGES[: STAGES.index(first)]:
            if stage not in self.diary.ended:
                raise DistillError(
                    f"The stage {stage!r} has not been done in {self.work.out}: run without "
                    f"--only, or with --only {stage} first."
                )

    def take_samples(self, other: Path) -> None:
        """Use what another run has collected, where this one would collect the same: two students
        of one teacher are to be compared on the same samples."""
        theirs = Diary.read(other / "run.json")
        asked = ("prompts", "collect")
        same = all(
            theirs.begun.get(stage) == self.work.recipe.digest(*_DEPENDS[stage])
            and stage in theirs.ended
            for stage in asked
        )
        if not same or self.diary.begun or (self.work.out / "prompts.jsonl").exists():
            return
        out = self.work.out
        shutil.rmtree(out / "samples", ignore_errors=True)  # of a copying that was interrupted
        shutil.copytree(other / "samples", out / "samples")
        shutil.copyfile(other / "prompts.jsonl", out / "prompts.partial")
        os.replace(out / "prompts.partial", out / "prompts.jsonl")
        self.diary.ended = list(asked)
        self.begin(list(asked))
        self.work.progress.say(f"The prompts and samples are those of {other}.")

    def begin(self, stages: list[str]) -> None:
        """Raises DistillError where one of them was begun with another recipe."""
        for stage in stages:
            if stage in _DEPENDS:
                self.diary.begin(stage, self.work.recipe)

    def go(self, stages: list[str], beside: tuple[Path, ...]) -> dict[str, Any]:
        if {"prompts", "collect"} & set(stages):
            # Also when both have ended: a shard that was damaged and deleted is collected again.
            asyncio.run(self._ask(stages))
        if "train" in stages and "train" not in self.diary.ended:
            with self.diary.timed("train"):
                self.work.train()
        told: dict[str, Any] = {"out": str(self.work.out)}
        if "evaluate" in stages:
            with self.diary.timed("evaluate"):
                told |= self.work.evaluate(beside)
        return told | {"stage_seconds": self.diary.seconds}

    async def _ask(self, stages: list[str]) -> None:
        """Prompts and answers, with one teacher for both, opened when something is missing."""
        async with self.work.teacher() as teacher:
            with self.diary.timed("prompts"):
                tasks = await self.work.gather(teacher)
            if "collect" in stages:
                with self.diary.timed("collect"):
                    await self.work.collect(tasks, teacher)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One run at a time in a folder; the processes of one torchrun are one run."""
    from filelock import FileLock, Timeout

    if int(os.environ.get("RANK", "0")):
        yield
        return
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise DistillError(
            f"Another run is at work in {out}: wait for it, or give another --out."
        ) from None


@contextlib.contextmanager
def _disk_sentences(out: Path) -> Iterator[None]:
    """Turn what a disk says into one sentence."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise DistillError(
            f"{problem.filename or out} cannot be written ({(problem.strerror or '').lower()}): "
            "make room or give another --out, and run the same command again; what was done is "
            "kept."
        ) from problem
