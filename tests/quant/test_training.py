"""Promises of `quant/training.py`: a folder is trained through its quantizer, kills included."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import make_tiny_model
from torch import Tensor

from senryu.quant import training
from senryu.quant.embedded import prepare
from senryu.quant.errors import QuantizeError
from senryu.quant.folder import quantize_folder
from senryu.quant.making import units
from senryu.quant.parent import open_parent
from senryu.quant.recipe import CalibrationRecipe, QadRecipe, QuantizeRecipe, SchemeRecipe
from senryu.quant.restore import restore
from senryu.server.manifest import Manifest

from .conftest import Recorder

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

KEPT = "model.layers.0.mlp.up_proj"
STEPS = 6
RECIPE = QuantizeRecipe(
    scheme=SchemeRecipe(rounding="nearest", keep=(KEPT,)),
    calibration=CalibrationRecipe(tokens=512, length=64),
    qad=QadRecipe(
        tokens=128 * STEPS,
        batch_tokens=128,
        sequence=32,
        codes_rate=0.4,
        scales_rate=4e-3,
        norms_rate=1e-2,
    ),
)


class Killed(Exception):
    pass


class Dying(Recorder):
    """Dies after so many steps of training."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.dies = 2 + steps  # layers come first

    def done(self, detail: str = "") -> None:
        super().done(detail)
        if self.finished == self.dies:
            raise Killed


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer_of = prepare(scheme="bf16")
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tokenizer_of)


@pytest.fixture(scope="module")
def told() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def made(parent: Path, told: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_folder(parent, tmp_path_factory.mktemp("made") / "out", RECIPE, progress=told)


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_what_was_trained_is_in_the_folder(parent: Path, made: Path, tmp_path: Path) -> None:
    plain = QuantizeRecipe(scheme=RECIPE.scheme)
    before, after = stored(quantize_folder(parent, tmp_path / "out", plain)), stored(made)
    assert before.keys() == after.keys()
    for name, each in before.items():
        assert each.dtype == after[name].dtype
        assert each.shape == after[name].shape
        trained = name.endswith(("weight_packed", "weight_scale", "norm.weight"))
        if name.startswith(KEPT) or not trained:
            assert torch.equal(each, after[name]), name
    for name in ("model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert not torch.equal(before[name], after[name])
    for own in ("packed", "scale"):
        name = f"model.layers.1.mlp.up_proj.weight_{own}"
        assert not torch.equal(before[name], after[name])


def test_the_parent_is_as_it_was(parent: Path, made: Path) -> None:
    fresh = load_file(parent / "model.safetensors")
    assert torch.equal(stored(made)[f"{KEPT}.weight"], fresh[f"{KEPT}.weight"])


def test_the_folder_is_whole_and_says_how_it_was_trained(made: Path) -> None:
    manifest = Manifest.read(made)
    assert manifest
    manifest.verify(made)
    assert "768 tokens of training" in manifest.notes[-1]
    assert manifest.calibration
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(stored(made))
    assert {each.stat().st_nlink for each in made.iterdir()} == {1}
    assert restore(made)


def test_progress_counts_every_layer_and_every_step(
    parent: Path, made: Path, told: Recorder
) -> None:
    assert told.units == told.finished == 2 + STEPS + 1
    assert units(open_parent(parent), RECIPE) == told.units
    assert "distil through the quantizer" in told.stages


@pytest.mark.parametrize("steps", [1, 4])
def test_killed_while_it_trains_it_goes_on_and_the_weights_are_the_same(
    parent: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """It is put down every second step here."""
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 2)
    with pytest.raises(Killed):
        quantize_folder(parent, tmp_path / "out", RECIPE, progress=Dying(steps))
    (work,) = tmp_path.glob(".out.*.work")
    assert bool(list(work.glob("qad-*.safetensors"))) is (steps > 2)
    again = Recorder()
    monkeypatch.setattr(training, "train", counted := Counted(training.train))
    assert stored_equal(quantize_folder(parent, tmp_path / "out", RECIPE, progress=again), made)
    assert again.finished == 2 + STEPS + 1
    assert counted.times == 1


class Counted:
    def __init__(self, plain: Any) -> None:
        self.plain, self.times = plain, 0

    def __call__(self, *words: Any, **told: Any) -> Any:
        self.times += 1
        return self.plain(*words, **told)


def stored_equal(one: Path, other: Path) -> bool:
    a, b = stored(one), stored(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_steps_are_those_that_rows_of_whole_sequences_take() -> None:
    told = QadRecipe(tokens=1000, batch_tokens=100, sequence=30)  # three rows: 90 a step
    assert training.steps(QuantizeRecipe(qad=told)) == 12
    assert training.steps(QuantizeRecipe()) == 0


def test_too_few_samples_are_one_sentence(parent: Path, tmp_path: Path) -> None:
    asked = QadRecipe(tokens=20, batch_tokens=64, sequence=64)
    recipe = QuantizeRecipe(scheme=RECIPE.scheme, calibration=RECIPE.calibration, qad=asked)
    with pytest.raises(QuantizeError, match="20 tokens, which do not fill one row of 64"):
        quantize_folder(parent, tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
