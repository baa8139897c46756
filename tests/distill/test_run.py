"""Stages run in their order, each once, and only with the recipe that they were begun with."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from senryu.distill.errors import DistillError
from senryu.distill.recipe import CollectRecipe, Recipe, TeacherRecipe, TrainRecipe
from senryu.distill.run import STAGES, Diary, Run, _disk_sentences, run
from senryu.quant.progress import Silent

TEACHER = TeacherRecipe(licence="Apache-2.0", allows_training=True, terms="It says so.")


class Notes:
    """A workshop that only writes down what it is asked to do."""

    def __init__(self, out: Path, recipe: Recipe, *, fails: str = "") -> None:
        self.out, self.recipe = out, recipe
        self.progress = Silent()
        self.done: list[str] = []
        self._fails = fails

    @contextlib.asynccontextmanager
    async def teacher(self) -> AsyncIterator[None]:
        yield
        self.done.append("teacher closed")

    async def gather(self, teacher: None) -> list[Any]:
        self._do("prompts")
        return []

    async def collect(self, tasks: list[Any], teacher: None) -> None:
        self._do("collect")

    def would_gather(self, file: Path) -> bool:
        return file.exists()

    def train(self) -> None:
        self._do("train")
        (self.out / "student").mkdir()

    def evaluate(self, beside: tuple[Path, ...]) -> dict[str, Any]:
        self._do("evaluate")
        return {"kl": 1.0}

    def _do(self, stage: str) -> None:
        if stage == self._fails:
            raise DistillError(f"{stage} failed.")
        self.done.append(stage)


def go(notes: Notes, *stages: str) -> dict[str, Any]:
    job = Run(work=notes, diary=Diary.read(notes.out / "run.json"))  # type: ignore[arg-type]
    return job.go(list(stages or STAGES), ())


def notes(out: Path, *, fails: str = "", **parts: Any) -> Notes:
    return Notes(out, Recipe(teacher=TEACHER, **parts), fails=fails)


def test_all_stages_run_in_order_and_the_teacher_is_gone_before_training(tmp_path: Path) -> None:
    work = notes(tmp_path)
    result = go(work)
    assert work.done == ["prompts", "collect", "teacher closed", "train", "evaluate"]
    assert result["kl"] == 1.0
    assert set(result["stage_seconds"]) == set(STAGES)


def test_training_is_not_done_again_but_what_is_missing_and_measuring_are(tmp_path: Path) -> None:
    go(notes(tmp_path))
    again = notes(tmp_path)
    go(again)
    assert again.done == ["prompts", "collect", "teacher closed", "evaluate"], "if any are missing"


def test_a_stage_that_failed_is_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="train failed"):
        go(notes(tmp_path, fails="train"))
    again = notes(tmp_path)
    go(again)
    assert again.done[-2:] == ["train", "evaluate"]


def test_one_stage_alone_needs_those_before_it(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="The stage 'prompts' has not been done"):
        go(notes(tmp_path), "train")
    go(notes(tmp_path), "prompts")
    with pytest.raises(DistillError, match="The stage 'collect' has not been done"):
        go(notes(tmp_path), "train")


def test_another_recipe_does_not_mix_with_what_lies_there(tmp_path: Path) -> None:
    go(notes(tmp_path))
    with pytest.raises(DistillError, match="was trained with another recipe"):
        go(notes(tmp_path, train=TrainRecipe(tokens=7)))
    with pytest.raises(DistillError, match="asked of another teacher or in another way"):
        go(notes(tmp_path, collect=CollectRecipe(max_tokens=7)))


def test_a_report_never_tells_another_recipe_than_the_students(tmp_path: Path) -> None:
    go(notes(tmp_path))
    with pytest.raises(DistillError, match="was trained with another recipe"):
        go(notes(tmp_path, train=TrainRecipe(loss="sft")), "evaluate")


def test_what_an_error_advises_may_be_changed_before_training_has_ended(tmp_path: Path) -> None:
    """Such as a lower rate after a loss that is no number; training judges the rest itself."""
    with pytest.raises(DistillError, match="train failed"):
        go(notes(tmp_path, fails="train"))
    again = notes(tmp_path, train=TrainRecipe(learning_rate=1e-5))
    go(again)
    assert again.done[-2:] == ["train", "evaluate"]


def test_how_the_teacher_is_reached_may_change(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="collect failed"):
        go(notes(tmp_path, fails="collect"))
    fewer = dataclasses.replace(TEACHER, streams=2)
    work = Notes(tmp_path, Recipe(teacher=fewer, collect=CollectRecipe(shard_samples=9)))
    go(work)
    assert "collect" in work.done


def test_a_student_that_was_deleted_is_trained_again(tmp_path: Path) -> None:
    go(notes(tmp_path))
    (tmp_path / "student").rmdir()
    again = notes(tmp_path, train=TrainRecipe(tokens=7))
    go(again)
    assert "train" in again.done


def test_of_several_processes_the_first_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(notes(tmp_path), "prompts", "collect")
    before = (tmp_path / "run.json").read_bytes()
    monkeypatch.setenv("RANK", "1")
    go(notes(tmp_path), "train")
    assert (tmp_path / "run.json").read_bytes() == before
    assert not (tmp_path / "recipe.toml").exists()


def test_several_processes_only_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillError, match="with --only train"):
        run(told(tmp_path), tmp_path / "out", only=None, beside=(), progress=Silent())


def told(folder: Path) -> Path:
    recipe = folder / "recipe.toml"
    recipe.write_text(
        '[teacher]\nlicence = "Apache-2.0"\nallows_training = true\nterms = "It says so."\n'
    )
    return recipe


def test_a_run_beside_another_takes_its_samples(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for each in (first, second, third):
        each.mkdir()
    go(notes(first))
    (first / "samples").mkdir()
    (first / "samples" / "shard").write_text("s")
    (first / "prompts.jsonl").write_text("p")

    def taken(out: Path, **parts: Any) -> bool:
        work = notes(out, **parts)
        job = Run(work=work, diary=Diary.read(out / "run.json"))  # type: ignore[arg-type]
        job.take_samples(first)
        return (out / "samples" / "shard").exists() and (out / "prompts.jsonl").exists()

    assert taken(second, train=TrainRecipe(loss="sft"))
    go(notes(second, train=TrainRecipe(loss="sft")), "train")
    assert not taken(third, collect=CollectRecipe(max_tokens=3)), "it asks for other answers"


def test_a_disk_that_fills_while_samples_are_taken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    go(notes(first))
    (first / "samples").mkdir()
    (first / "samples" / "shard").write_text("s")
    (first / "prompts.jsonl").write_text("p")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    job = Run(work=notes(second), diary=Diary.read(second / "run.json"))  # type: ignore[arg-type]
    with pytest.raises(DistillError, match="cannot be written"), _disk_sentences(second):
        job.take_samples(first)


def test_how_it_is_measured_may_change(tmp_path: Path) -> None:
    from senryu.distill.recipe import EvaluateRecipe

    go(notes(tmp_path))
    go(notes(tmp_path, evaluate=EvaluateRecipe(max_samples=3)))


def test_a_damaged_diary_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"bogus": 1}')
    with pytest.raises(DistillError, match=r"run\.json is damaged"):
        go(notes(tmp_path))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    recipe = told(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(DistillError, match="Another run is at work"):
        run(recipe, out, only=None, beside=(), progress=Silent())


def test_time_is_counted_over_all_attempts(tmp_path: Path) -> None:
    diary = Diary(file=tmp_path / "run.json", seconds={"train": 100.0})
    with pytest.raises(ZeroDivisionError), diary.timed("train"):
        raise ZeroDivisionError
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["seconds"]["train"] >= 100.0
    assert stored["ended"] == []
