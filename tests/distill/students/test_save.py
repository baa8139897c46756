"""Promises of `distill/students/save.py`: a folder that is served, with its papers, or none."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from senryu.distill.errors import DistillError
from senryu.distill.students import save
from senryu.distill.students.build import build_student
from senryu.distill.students.save import save_student
from senryu.server.engine.model_folder import read_facts
from senryu.server.manifest import Manifest


@pytest.fixture
def student(teacher: Path, recipe_of: Any) -> tuple[Any, Any, Any]:
    recipe = recipe_of(shape="depth", layers=2)
    return (*build_student(recipe.student, teacher, seed=0), recipe)


def test_the_papers_carry_licence_and_terms(student: Any, teacher: Path, tmp_path: Path) -> None:
    *parts, recipe = student
    folder = tmp_path / "student"
    manifest = save_student(
        *parts, folder, recipe=recipe, teacher_folder=teacher, notes=["A note."], recipe_digest="ab"
    )
    assert Manifest.read(folder) == manifest
    manifest.verify(folder)
    assert manifest.licence == "MIT"
    assert manifest.model_id == "teacher-llama-depth"
    assert manifest.source == "distilled from teacher-llama (shape depth)"
    assert (manifest.scheme, manifest.recipe_digest) == ("bf16", "ab")
    assert manifest.notes == ("The teacher's terms on training: The licence says so.", "A note.")


def test_the_folder_is_one_that_is_served(student: Any, teacher: Path, tmp_path: Path) -> None:
    """bf16 in the config and in the file, and a chat template that the server reads."""
    *parts, recipe = student
    folder = tmp_path / "student"
    save_student(*parts, folder, recipe=recipe, teacher_folder=teacher)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    saved = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    facts = read_facts(folder, served_name=None, asked=str(folder))
    assert (facts.name, facts.scheme) == ("teacher-llama-depth", "bf16")


def test_a_name_of_ones_own(student: Any, teacher: Path, tmp_path: Path, recipe_of: Any) -> None:
    model, tokenizer, _ = student
    recipe = recipe_of(shape="depth", layers=2, name="me/mine")
    manifest = save_student(
        model, tokenizer, tmp_path / "student", recipe=recipe, teacher_folder=None
    )
    assert (manifest.model_id, manifest.display_name) == ("me/mine", "mine")


def test_weights_from_elsewhere_take_the_place_of_the_models_own(
    student: Any, teacher: Path, tmp_path: Path
) -> None:
    """A moving average, or shards that were gathered. And a second student the place of the
    first."""
    model, tokenizer, recipe = student
    folder = tmp_path / "student"
    save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher, state=state)
    assert not any(weight.any() for weight in load_file(folder / "model.safetensors").values())
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_a_full_disk_leaves_the_old_student(
    student: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, recipe = student
    folder = tmp_path / "student"
    old = save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(save, "_write", full)
    with pytest.raises(DistillError, match=r"no space left on device\): make room there"):
        save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher)
    old.verify(folder)
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_a_mistake_of_ours_is_not_blamed_on_the_disk(
    student: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, recipe = student
    monkeypatch.setattr(save, "_write", lambda *_: {}["x"])
    with pytest.raises(KeyError):
        save_student(model, tokenizer, tmp_path / "x", recipe=recipe, teacher_folder=teacher)


def test_several_templates_stay_in_one_file(student: Any, teacher: Path, tmp_path: Path) -> None:
    model, tokenizer, recipe = student
    tokenizer.chat_template = {"default": "a{{ messages }}", "tool_use": "b{{ messages }}"}
    folder = tmp_path / "student"
    save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher)
    assert all(each.is_file() for each in folder.iterdir())
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(str(folder)).chat_template == tokenizer.chat_template
