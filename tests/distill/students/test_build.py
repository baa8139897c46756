"""Promises of `distill/students/build.py`: whatever the shape, one kind of model comes out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe, TrainRecipe
from senryu.distill.samples import Sample
from senryu.distill.students.build import build_student, refuse_student
from senryu.distill.students.existing import open_model
from senryu.distill.students.save import save_student

SHAPES: dict[str, dict[str, Any]] = {
    "depth": {"shape": "depth"},
    "depth by influence": {"shape": "depth", "layers": 3, "importance": "block"},
    "width": {"shape": "width", "hidden": 64, "heads": 2, "kv_heads": 1, "ffn": 64},
    "width and depth": {"shape": "width", "layers": 2, "ffn": 64},
    "scratch": {"shape": "scratch", "layers": 2, "hidden": 64, "heads": 2, "ffn": 64},
    "layerwise": {"shape": "layerwise", "layers": 3, "kv_range": (1, 4), "ffn_range": (0.5, 2.0)},
    "shared-ffn": {"shape": "shared-ffn", "layers": 3},
    "model": {"shape": "model"},
}

Build = Callable[..., tuple[Any, Any]]


@pytest.fixture
def build(teacher: Path, calibration: list[Sample]) -> Build:
    def build(*, seed: int = 1, folder: Path | None = teacher, **told: Any) -> tuple[Any, Any]:
        if told["shape"] == "model":
            told.setdefault("model", str(teacher))
        return build_student(StudentRecipe(**told), folder, calibration=calibration, seed=seed)

    return build


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_learns_and_comes_back_from_its_folder(
    name: str, build: Build, logits: Any, ids: Any, tmp_path: Path, recipe_of: Any, teacher: Path
) -> None:
    """It is float32, a step of training lowers its loss, and the folder that is written holds what
    was trained, to the precision of bf16."""
    model, tokenizer = build(**SHAPES[name])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert tokenizer.chat_template

    def loss() -> torch.Tensor:
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        return torch.nn.functional.cross_entropy(
            model.lm_head(hidden).flatten(0, 1), ids[:, 1:].flatten()
        )

    model.train()
    steps = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = loss()
    before.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    steps.step()
    assert loss() < before

    folder = tmp_path / "student"
    recipe = recipe_of(**SHAPES[name] | ({"model": "x"} if name == "model" else {}))
    save_student(model, tokenizer, folder, recipe=recipe, teacher_folder=teacher)
    again, spoken = open_model(folder)
    in_bf16 = {key: value.bfloat16().float() for key, value in model.state_dict().items()}
    model.load_state_dict(in_bf16)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-5)
    assert spoken.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_seed_gives_the_same_student(name: str, build: Build) -> None:
    torch.manual_seed(5)
    first = build(**SHAPES[name])[0].state_dict()
    state = torch.get_rng_state()
    second = build(**SHAPES[name])[0].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.get_rng_state())  # nobody else's chance is touched


def test_another_seed_gives_other_weights(build: Build) -> None:
    one, other = (build(seed=seed, **SHAPES["scratch"])[0] for seed in (1, 2))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_a_third_of_the_layers_stays_by_default(build: Build) -> None:
    assert build(shape="depth")[0].config.num_hidden_layers == 2


@pytest.mark.parametrize("shape", ["depth", "width"])
def test_an_endpoint_cannot_be_pruned(shape: str, build: Build) -> None:
    with pytest.raises(DistillError, match="this teacher is an endpoint: take"):
        build(shape=shape, folder=None)


def test_a_student_of_an_endpoint_needs_a_tokenizer(build: Build, teacher: Path) -> None:
    """student.model gives it, and the proportions."""
    with pytest.raises(DistillError, match=r"needs student\.model"):
        build(shape="scratch", folder=None)
    model, _ = build(shape="scratch", folder=None, model=str(teacher), layers=1)
    assert model.config.num_hidden_layers == 1


def test_what_a_shape_would_ignore_is_refused(build: Build) -> None:
    with pytest.raises(
        DistillError, match=r"student\.ffn means nothing .* 'depth', only to 'width'"
    ):
        build(shape="depth", ffn=64)


@pytest.mark.parametrize(
    ("told", "samples"), [({"shape": "width"}, []), ({"importance": "block"}, [])]
)
def test_nothing_is_measured_on_nothing(
    told: dict[str, Any], samples: list[Sample], teacher: Path
) -> None:
    with pytest.raises(DistillError, match="collect samples first"):
        build_student(StudentRecipe(**told), teacher, calibration=samples, seed=0)


def test_a_student_too_large_is_refused_before_its_weights_are_made(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.distill.students.memory.free_memory", lambda: 2**20)
    monkeypatch.setattr(
        "senryu.distill.students.base.open_weights", lambda *_: pytest.fail("weights were read")
    )
    with pytest.raises(DistillError, match=r"needs 0\.0 GiB to be trained .* make it smaller"):
        build(shape="depth")


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"shape": "depth", "ffn": 64}, "means nothing"),
        ({"shape": "depth", "layers": 9}, "pruning only takes away"),
        ({"shape": "width", "ffn": 70}, "takes multiples of 32"),
        ({"shape": "scratch", "hidden": 100, "heads": 3}, "is not a multiple of the 3 query heads"),
        ({"shape": "layerwise", "kv_range": (3, 4)}, "has 4 query heads"),
        ({"shape": "model", "model": "nowhere/at/all"}, "There is no model folder"),
    ],
)
def test_what_cannot_be_built_is_refused_before_the_teacher_is_asked(
    told: dict[str, Any], sentence: str, teacher: Path
) -> None:
    """No weights are there to be opened yet."""
    (teacher / "model.safetensors").unlink()
    with pytest.raises(DistillError, match=sentence):
        refuse_student(StudentRecipe(**told), TrainRecipe(), teacher)


@pytest.mark.parametrize("name", SHAPES)
def test_what_can_be_built_passes_without_weights(name: str, teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()
    told = {"model": str(teacher)} if name == "model" else {}
    refuse_student(StudentRecipe(**SHAPES[name] | told), TrainRecipe(ema=0.9), teacher)


def test_a_teacher_beside_its_student_has_to_fit_too(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.distill.students.memory.free_memory", lambda **_: 2**20)
    with pytest.raises(DistillError, match="with its teacher beside it"):
        refuse_student(StudentRecipe(), TrainRecipe(on_policy=0.5), teacher)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [("model", r"only its text can be learnt: set train\.loss"), ("scratch", "leave student.mod")],
)
def test_a_student_with_other_tokens_learns_no_distributions(
    shape: Any, sentence: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(teacher, tmp_path / "other")
    told = StudentRecipe(shape=shape, model=str(tmp_path / "other"))
    monkeypatch.setattr("senryu.distill.students.build.same_tokens", lambda *_: True)
    refuse_student(told, TrainRecipe(), teacher)
    monkeypatch.setattr("senryu.distill.students.build.same_tokens", lambda *_: False)
    with pytest.raises(DistillError, match=sentence):
        refuse_student(told, TrainRecipe(), teacher)
