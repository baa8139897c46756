"""Promises of `distill/students/shared_ffn.py`: one feed-forward layer is trained once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.students.build import build_student
from senryu.distill.students.save import save_student


def test_one_step_moves_it_for_all_layers(teacher: Path, ids: Any) -> None:
    model, _ = build_student(StudentRecipe(shape="shared-ffn", layers=3), teacher, seed=0)
    names = [name for name, _ in model.named_parameters() if ".mlp.up_proj" in name]
    assert names == ["model.layers.0.mlp.up_proj.weight"]
    model.model(input_ids=ids).last_hidden_state.square().mean().backward()
    with torch.no_grad():
        for weight in model.model.parameters():
            weight -= weight.grad
    first, last = (model.model.layers[place].mlp.up_proj.weight for place in (0, 2))
    assert first is last


def test_the_folder_has_a_copy_for_each_layer_and_says_so(
    teacher: Path, tmp_path: Path, recipe_of: Any
) -> None:
    recipe = recipe_of(shape="shared-ffn", layers=3)
    model, tokenizer = build_student(recipe.student, teacher, seed=0)
    manifest = save_student(
        model, tokenizer, tmp_path / "student", recipe=recipe, teacher_folder=teacher
    )
    saved = load_file(tmp_path / "student" / "model.safetensors")
    copies = [saved[f"model.layers.{place}.mlp.up_proj.weight"] for place in range(3)]
    assert all(torch.equal(copies[0], each) for each in copies)
    assert "one feed-forward layer that all 3 layers share" in manifest.notes[-1]
    assert manifest.parameters == sum(weight.numel() for weight in saved.values())


def test_a_family_without_such_layers_is_told_what_works(make_teacher: Any) -> None:
    with pytest.raises(DistillError, match="have no feed-forward layer that could be shared"):
        build_student(StudentRecipe(shape="shared-ffn"), make_teacher("biogpt"), seed=0)
