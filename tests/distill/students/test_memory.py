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


def test_what_runs_beside_it_counts() -> None:
    """Seven billion weights: an average is four more bytes each, and so is the teacher."""
    with pytest.raises(DistillError, match=r"125\.5 GiB to be trained with an average of its"):
        refuse_large(config(32), memory=110 * 2**30, average=True)
    with pytest.raises(DistillError, match=r"125\.5 GiB to be trained with its teacher beside it"):
        refuse_large(config(32), memory=110 * 2**30, beside=config(32))
    refuse_large(config(32), memory=110 * 2**30)


def test_a_teacher_is_opened_before_it_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, all of it."""
    monkeypatch.setattr("senryu.distill.students.memory.free_ram", lambda: 24 * 2**30)
    with pytest.raises(DistillError, match=r"weights in float32, which need 25\.1 GiB"):
        refuse_large(config(1), memory=24 * 2**30, opened=config(32))


@pytest.mark.parametrize(
    ("kind", "needed"), [("gpu", r"needs 25\.1 GiB"), ("cpu", r"needs 50\.2 GiB")]
)
def test_several_processes_share_a_student(
    kind: str, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But each is given the whole one before it keeps a part; and keeps it, on a CPU."""
    device = type("Device", (), {"kind": kind, "memory": 0})
    monkeypatch.setattr("senryu.distill.students.memory.detect", device)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(DistillError, match=needed):
        refuse_large(config(32), memory=24 * 2**30)


def test_one_that_fits_passes() -> None:
    refuse_large(config(1), memory=24 * 2**30)


def test_this_machine_has_some_memory() -> None:
    assert 2**28 < free_memory() < 2**50
