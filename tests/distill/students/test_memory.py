"""Promises of `distill/students/memory.py`: no hours are spent on what cannot end."""

from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.students.build import build_student
from senryu.distill.students.memory import free_memory, parameters, refuse_large


def config(layers: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(num_hidden_layers=layers, hidden_size=4096)


def test_weights_are_counted_without_being_made(teacher: Path, open_folder: Any) -> None:
    model = open_folder(teacher)
    assert parameters(model.config) == sum(weight.numel() for weight in model.parameters())


def test_a_layerwise_student_is_counted_layer_by_layer(teacher: Path) -> None:
    told = StudentRecipe(shape="layerwise", layers=3, kv_range=(1, 4))
    model, _ = build_student(told, teacher, seed=0)
    assert parameters(model.config) == sum(weight.numel() for weight in model.parameters())


def test_a_large_student_is_refused_with_both_figures() -> None:
    """Seven billion weights, their gradients and two moments."""
    with pytest.raises(DistillError, match=r"6,738 million weights needs 100\.4 GiB .* 24\.0 GiB"):
        refuse_large(config(32), memory=24 * 2**30)


def test_one_that_fits_passes() -> None:
    refuse_large(config(1), memory=24 * 2**30)


def test_this_machine_has_some_memory() -> None:
    assert 2**28 < free_memory() < 2**50
