"""Runs a recipe: prompts, answers, training, refinement, measuring, each once.

Comes in: a recipe and a folder. Goes out: the folder, filled, and a few figures. What lies there is
taken as done; so an interrupted run goes on where it stopped. It refuses to know how any stage
works, and only hands each what the one before it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
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
from .recipe_file import read_recipe
from .stages import Workshop

STAGES = ("prompts", "collect", "train", "evaluate")
# What the answers of a teacher depend on, and the student that learns from them. (prompts.jsonl
# says itself which recipe it is of, and so does a training that has not ended.)
_ANSWERS = {
    "teacher": ("model", "api", "top_k"),
    "collect": ("max_tokens", "temperature", "top_p", "thinking"),
}


@dataclass(slots=True)
class Diary:
    """`run.json`: which stages have ended, and of which recipe their results are."""

    file: Path
    made_of: dict[str, str] = field(default_factory=dict)
    """Stage -> digest of what its result depends on."""
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
        if not _first():
            return
        told = {"made_of": self.made_of, "seconds": self.seconds, "ended": self.ended}
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(told, indent=2), encoding="utf-8")
        os.replace(partial, self.file)

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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and only != "train":
        raise DistillError(
            "Only training is done by several processes at once: run the other stages without "
            "torchrun, and this one with --only train."
        )
    with _disk_sentences(out):
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            work = Workshop(recipe=recipe, out=out, progress=progress)
            job = Run(work=work, diary=Diary.read(out / "run.json"))
            work.refuse()
            for other in beside:
                job.take_samples(other)
            return job.go([only] if only else list(STAGES), beside, recipe_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recipe in one folder."""

    work: Workshop
    diary: Diary

    def go(
        self, stages: list[str], beside: tuple[Path, ...], recipe_file: Path | None = None
    ) -> dict[str, Any]:
        """Raises DistillError, also where what lies there is of another recipe."""
        self._refuse_gaps(stages[0])
        self._refuse_mixture(stages)
        if recipe_file is not None and _first():
            (self.work.out / "recipe.toml").write_bytes(recipe_file.read_bytes())
        if {"prompts", "collect"} & set(stages):
            # Also when both have ended: a shard that was damaged and deleted is collected again.
            asyncio.run(self._ask(stages))
        if "train" in stages and not self._trained:
            self.diary.made_of["train"] = self._digest("train")
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
                self.diary.made_of["collect"] = self._digest("collect")
                with self.diary.timed("collect"):
                    await self.work.collect(tasks, teacher)

    @property
    def _trained(self) -> bool:
        """A student that was deleted is trained again."""
        return "train" in self.diary.ended and (self.work.out / "student").is_dir()

    def _digest(self, stage: str) -> str:
        recipe = self.work.recipe
        if stage == "train":
            return recipe.digest("teacher", "prompts", "collect", "student", "train", "refine")
        told = {
            table: [getattr(getattr(recipe, table), key) for key in keys]
            for table, keys in _ANSWERS.items()
        }
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def _refuse_gaps(self, first: str) -> None:
        for stage in STAGES[: STAGES.index(first)]:
            if stage not in self.diary.ended:
                raise DistillError(
                    f"The stage {stage!r} has not been done in {self.work.out}: run without "
                    f"--only, or with --only {stage} first."
                )

    def _refuse_mixture(self, stages: list[str]) -> None:
        out, made_of = self.work.out, self.diary.made_of
        collects = {"collect", "train"} & set(stages)
        if collects and made_of.get("collect", self._digest("collect")) != self._digest("collect"):
            raise DistillError(
                f"The answers in {out / 'samples'} were asked of another teacher or in another "
                "way: give another --out, or delete that folder and run.json there to ask anew."
            )
        if self._trained and made_of.get("train") != self._digest("train"):
            raise DistillError(
                f"The student in {out} was trained with another recipe: give another --out, or "
                f"delete {out / 'student'} and {out / 'training'} to train anew."
            )

    def take_samples(self, other: Path) -> None:
        """Use what another run has collected, where this one would collect the same: two students
        of one teacher are to be compared on the same samples."""
        out, theirs = self.work.out, Diary.read(other / "run.json")
        same = theirs.made_of.get("collect") == self._digest("collect")
        if not same or "collect" not in theirs.ended or (out / "prompts.jsonl").exists():
            return
        if not self.work.would_gather(other / "prompts.jsonl"):
            return
        shutil.rmtree(out / "samples", ignore_errors=True)  # of a copying that was interrupted
        (out / "samples").mkdir()
        for shard in sorted((other / "samples").iterdir()):
            shutil.copyfile(shard, out / "samples" / shard.name)
        shutil.copyfile(other / "prompts.jsonl", out / "prompts.partial")
        os.replace(out / "prompts.partial", out / "prompts.jsonl")
        self.diary.made_of["collect"] = self._digest("collect")
        self.diary.ended = ["prompts", "collect"]
        self.diary.write()
        self.work.progress.say(f"The prompts and samples are those of {other}.")


def _first() -> bool:
    """Whether this is the first of the processes of one torchrun, the only one that writes."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One run at a time in a folder; the processes of one torchrun are one run."""
    from filelock import FileLock, Timeout

    if not _first():
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
        written = problem.filename2 or problem.filename or out
        raise DistillError(
            f"{written} cannot be written ({(problem.strerror or '').lower()}): "
            "make room or give another --out, and run the same command again; what was done is "
            "kept."
        ) from problem
