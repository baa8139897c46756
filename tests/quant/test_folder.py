"""Any Llama-like folder becomes a smaller folder that says what it was made of, or one sentence."""

import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_kinds import tiny_folder
from tiny_model import make_tiny_model
from torch import Tensor

from senryu.quant import folder as quantizing
from senryu.quant.embedded import prepare
from senryu.quant.folder import QuantizeError, kept_layers, quantize_folder, scheme_of
from senryu.quant.recipe import (
    CalibrationRecipe,
    MixedRecipe,
    QadRecipe,
    QuantizeRecipe,
    SchemeRecipe,
)
from senryu.quant.restore import restore
from senryu.quant.schemes.base import Read, Stored
from senryu.quant.schemes.w4a16 import W4A16
from senryu.server.manifest import Manifest, describe_folder, record_files

from .conftest import Recorder

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

FEW = CalibrationRecipe(tokens=640, length=64)
RECIPE = QuantizeRecipe(calibration=FEW)
NEAREST = QuantizeRecipe(scheme=SchemeRecipe(rounding="nearest"))
"""Reads no calibration set, which is quicker."""
LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer_of = prepare(scheme="bf16")
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tokenizer_of)


@pytest.fixture
def source(parent: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(parent, tmp_path / "source"))


@pytest.fixture(scope="module")
def made(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By GPTQ on the packaged set, to look at."""
    return quantize_folder(parent, tmp_path_factory.mktemp("made") / "out", RECIPE)


def manifest_of(folder: Path) -> Manifest:
    found = Manifest.read(folder)
    assert found is not None
    found.verify(folder)
    return found


def identity(folder: Path) -> int:
    """Another one after the folder was made again."""
    return (folder / "config.json").stat().st_ino


def left_behind(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob(".*") if not each.name.endswith(".lock"))


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


class Stopping(Recorder):
    """Raises when so many units are done."""

    def __init__(self, after: int, problem: BaseException) -> None:
        super().__init__()
        self.after, self.problem = after, problem

    def done(self, detail: str = "") -> None:
        super().done(detail)
        if self.finished == self.after:
            raise self.problem


def test_the_result_is_whole_and_says_what_it_is(parent: Path, made: Path) -> None:
    told = manifest_of(made)
    assert (told.scheme, told.group_size, told.model_id) == ("w4a16", 32, "tiny")
    weights = load_file(parent / "model.safetensors").values()
    assert told.parameters == sum(each.numel() for each in weights)
    assert told.notes == ("Rounded by GPTQ, 4 bits, asymmetric, groups of 32.",)
    assert set(told.files) == {each.name for each in made.iterdir()} - {"senryu.json"}
    assert not left_behind(made.parent)


def test_it_says_what_it_was_fitted_to(made: Path) -> None:
    fitted = manifest_of(made).calibration
    assert fitted
    assert (fitted["name"], fitted["asked_tokens"], fitted["length"]) == ("packaged", 640, 64)
    assert not fitted["held_out"]
    assert len(fitted["sha256"]) == 64


def test_what_was_fitted_to_nothing_says_nothing(parent: Path, tmp_path: Path) -> None:
    told = manifest_of(quantize_folder(parent, tmp_path / "out", NEAREST))
    assert told.calibration is None
    assert told.notes == ("Rounded to nearest, 4 bits, asymmetric, groups of 32.",)


def test_no_file_shares_its_bytes_with_another(made: Path) -> None:
    """Else who changes one changes another."""
    assert {each.stat().st_nlink for each in made.iterdir()} == {1}


@pytest.mark.parametrize(("symmetric", "most"), [(True, 4.5), (False, 4.63)])
def test_a_weight_takes_no_more_bits_than_were_promised(
    parent: Path, tmp_path: Path, symmetric: bool, most: float
) -> None:
    scheme = SchemeRecipe(rounding="nearest", symmetric=symmetric)
    out = quantize_folder(parent, tmp_path / "out", QuantizeRecipe(scheme=scheme))
    plain = load_file(parent / "model.safetensors")
    found = stored(out)
    weights = sum(each.numel() for name, each in plain.items() if name.endswith("_proj.weight"))
    parts = {name: each for name, each in found.items() if "_proj." in name}
    assert not [name for name in parts if name.endswith("_proj.weight")]
    # The shape is two numbers a layer, which is nothing where layers are not tiny.
    shapes = sum(each.nbytes for name, each in parts.items() if name.endswith("weight_shape"))
    assert 8 * (sum(each.nbytes for each in parts.values()) - shapes) / weights <= most


def test_it_is_loaded_as_the_very_values_that_were_chosen(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Tensor] = []

    def noted(self: W4A16, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        found = plain(self, weights, read)
        chosen.extend(each.values for each in found.values())
        return found

    plain = W4A16.store
    monkeypatch.setattr(W4A16, "store", noted)
    model = restore(quantize_folder(parent, tmp_path / "out", RECIPE))
    names = [name for name, _ in model.named_modules() if name.endswith("_proj")]
    assert len(names) == len(chosen) == 14
    for name, values in zip(names, chosen, strict=True):
        assert torch.equal(model.get_submodule(name).weight, values.bfloat16())
    whole = load_file(parent / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(model.get_parameter(name), whole[name])


def test_two_runs_give_the_same_weights(parent: Path, made: Path, tmp_path: Path) -> None:
    again = stored(quantize_folder(parent, tmp_path / "out", RECIPE))
    for name, each in stored(made).items():
        assert torch.equal(again[name], each)


def test_it_is_made_once(parent: Path, made: Path, recorder: Recorder) -> None:
    before = identity(made)
    quantize_folder(parent, made, RECIPE, progress=recorder)
    assert identity(made) == before
    assert not recorder.units


def other_weights(parent: Path, folder: Path) -> Path:
    """A model of the same shape with one weight changed."""
    shutil.copytree(parent, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    weights[name] = weights[name] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_other_weights_take_the_place_of_what_was_made_before(
    parent: Path, tmp_path: Path, recorder: Recorder
) -> None:
    """Else a changed recipe's student would be served as the old one."""
    out = quantize_folder(parent, tmp_path / "out", NEAREST, progress=recorder)
    assert not recorder.sentences
    first = manifest_of(out)
    source = other_weights(parent, tmp_path / "other")
    quantize_folder(source, out, NEAREST, progress=recorder)
    second = manifest_of(out)
    assert first.recipe_digest
    assert second.recipe_digest not in (None, first.recipe_digest)
    assert (
        first.files["model-00001-of-00003.safetensors"]
        != (second.files["model-00001-of-00003.safetensors"])
    )
    assert len(recorder.sentences) == 1
    assert "made of other weights" in recorder.sentences[0]
    before = identity(out)
    quantize_folder(source, out, NEAREST, progress=recorder)
    assert identity(out) == before
    assert len(recorder.sentences) == 1


def test_another_recipe_makes_it_again(parent: Path, tmp_path: Path) -> None:
    out = quantize_folder(parent, tmp_path / "out", NEAREST)
    wide = dataclasses.replace(NEAREST.scheme, group_size=64)
    quantize_folder(parent, out, dataclasses.replace(NEAREST, scheme=wide))
    assert manifest_of(out).group_size == 64


def test_another_calibration_set_makes_it_again_and_another_place_does_not(
    parent: Path, tmp_path: Path
) -> None:
    packaged = Path(quantizing.__file__).parent / "packaged" / "calibration.jsonl"
    lines = packaged.read_text(encoding="utf-8").splitlines(keepends=True)
    one, two, moved = (tmp_path / f"{each}.jsonl" for each in ("one", "two", "moved"))
    one.write_text("".join(lines[:60]), encoding="utf-8")
    moved.write_text("".join(lines[:60]), encoding="utf-8")
    two.write_text("".join(lines[60:120]), encoding="utf-8")

    def on(file: Path) -> QuantizeRecipe:
        return QuantizeRecipe(calibration=dataclasses.replace(FEW, source=str(file)))

    out = quantize_folder(parent, tmp_path / "out", on(one))
    first, before = manifest_of(out), identity(out)
    assert first.calibration
    assert first.calibration["name"] == "one.jsonl"
    quantize_folder(parent, out, on(moved))
    assert identity(out) == before
    quantize_folder(parent, out, on(two))
    second = manifest_of(out)
    assert second.calibration
    assert second.calibration["sha256"] != first.calibration["sha256"]


def test_a_calibration_set_that_is_not_there_is_one_sentence(parent: Path, tmp_path: Path) -> None:
    asked = dataclasses.replace(FEW, source=str(tmp_path / "none.jsonl"))
    with pytest.raises(QuantizeError, match=r"There are no samples .*none\.jsonl: give"):
        quantize_folder(parent, tmp_path / "out", QuantizeRecipe(calibration=asked))
    assert not (tmp_path / "out").exists()


def test_a_new_model_card_is_taken_over_without_quantizing_again(
    source: Path, tmp_path: Path
) -> None:
    (source / "README.md").write_text("measured once")
    out = quantize_folder(source, tmp_path / "out", NEAREST)
    before = identity(out)
    (source / "README.md").write_text("measured twice")
    (source / "report.html").write_text("and compared")
    quantize_folder(source, out, NEAREST)
    assert identity(out) == before
    assert (out / "README.md").read_text() == "measured twice"
    manifest_of(out)


def test_no_model_is_lost_to_its_own_quantizing(source: Path, tmp_path: Path) -> None:
    dataclasses.replace(describe_folder(source), files=record_files(source)).write(source)
    for out in (source, tmp_path / "." / "source"):
        with pytest.raises(QuantizeError, match="holds a model in bf16, which would be lost"):
            quantize_folder(source, out, NEAREST)
    assert not describe_folder(source).group_size


def test_a_source_that_is_not_what_its_manifest_says_is_refused(
    source: Path, tmp_path: Path
) -> None:
    dataclasses.replace(describe_folder(source), files=record_files(source)).write(source)
    (source / "model.safetensors").write_bytes(b"short")
    with pytest.raises(QuantizeError, match=r"model\.safetensors is damaged"):
        quantize_folder(source, tmp_path / "out", NEAREST)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{"),
        ("config.json", b'{"model_type": "nobody-knows", "dtype": "bfloat16"}'),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    source: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(QuantizeError, match=r"cannot be|is damaged") as refused:
        quantize_folder(source, tmp_path / "out", RECIPE)
    assert "\n" not in str(refused.value)
    assert str(source) in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_folder(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr("senryu.quant.making.assemble", fail)
    with pytest.raises(QuantizeError, match=r"(?i)cannot be written \(.*no space left.*make room"):
        quantize_folder(parent, tmp_path / "out", NEAREST)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*.partial"))


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_system_writes_no_more_finished_layers_are_kept(
    parent: Path, tmp_path: Path, recorder: Recorder
) -> None:
    """The embedding is the largest by far: layers fit, the folder does not."""
    with (
        no_file_above(2**20),
        pytest.raises(QuantizeError, match=r"out cannot be written \(.*finished layers are kept"),
    ):
        quantize_folder(parent, tmp_path / "out", NEAREST, progress=recorder)
    assert not (tmp_path / "out").exists()
    (work,) = (tmp_path / name for name in left_behind(tmp_path))
    first = work / "layer-00000.safetensors"
    kept = first.stat().st_ino
    out = quantize_folder(parent, tmp_path / "out", NEAREST)
    assert (out / "model-00001-of-00003.safetensors").stat().st_ino == kept
    assert not left_behind(tmp_path)


def test_stopped_by_hand_it_goes_on_where_it_was(parent: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quantize_folder(parent, tmp_path / "out", RECIPE, progress=Stopping(1, KeyboardInterrupt()))
    assert not (tmp_path / "out").exists()
    (work,) = (tmp_path / name for name in left_behind(tmp_path))
    kept = (work / "layer-00000.safetensors").stat().st_ino
    out = quantize_folder(parent, tmp_path / "out", RECIPE)
    assert (out / "model-00001-of-00003.safetensors").stat().st_ino == kept
    undisturbed = stored(made)
    for name, each in stored(out).items():
        assert torch.equal(each, undisturbed[name])


def test_what_another_recipe_left_is_swept_away(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quantize_folder(
            parent, tmp_path / "out", NEAREST, progress=Stopping(1, KeyboardInterrupt())
        )
    assert left_behind(tmp_path)
    wide = dataclasses.replace(NEAREST.scheme, group_size=64)
    quantize_folder(parent, tmp_path / "out", dataclasses.replace(NEAREST, scheme=wide))
    assert not left_behind(tmp_path)


def test_what_another_process_made_meanwhile_in_another_way_is_made_again(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dataclasses.replace(NEAREST.scheme, group_size=64)

    def waited(final: Path, *rest: Any, **told: Any) -> Path:
        monkeypatch.undo()
        quantize_folder(parent, final, dataclasses.replace(NEAREST, scheme=wide))
        return quantizing.make_once(final, *rest, **told)

    monkeypatch.setattr(quantizing, "make_once", waited)
    out = quantize_folder(parent, tmp_path / "out", NEAREST)
    assert manifest_of(out).group_size == 32


def test_a_layerwise_student_is_served_in_bf16_only(tmp_path: Path) -> None:
    source = tmp_path / "wide"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "nemotron-nas", "dtype": "bfloat16"}')
    with pytest.raises(QuantizeError, match="served in bf16 only: serve it as it is"):
        quantize_folder(source, tmp_path / "out")


def test_a_quantized_model_is_not_quantized_again(made: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="is stored as w4a16: quantize the 16-bit model"):
        quantize_folder(made, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_shape_that_no_kernel_takes_leaves_nothing_behind(tmp_path: Path) -> None:
    odd = tiny_folder(tmp_path / "odd", intermediate_size=80)
    with pytest.raises(QuantizeError, match=r"multiples of 32: .*serve this model in bf16"):
        quantize_folder(odd, tmp_path / "out", NEAREST)
    assert not (tmp_path / "out").exists()
    assert not left_behind(tmp_path)


def test_somebodys_folder_is_not_written_over(parent: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear diary")
    with pytest.raises(QuantizeError, match="is no model of ours"):
        quantize_folder(parent, mine)
    assert (mine / "diary.txt").exists()
    with pytest.raises(QuantizeError, match="is no model of ours"):
        quantize_folder(parent, mine / "diary.txt")
    assert (mine / "diary.txt").read_text() == "dear diary"


def test_layers_that_were_named_stay_in_16_bits_and_the_engine_is_told(
    parent: Path, tmp_path: Path
) -> None:
    scheme = dataclasses.replace(NEAREST.scheme, keep=("model.layers.1.mlp.*",))
    out = quantize_folder(parent, tmp_path / "out", QuantizeRecipe(scheme=scheme))
    found, whole = stored(out), load_file(parent / "model.safetensors")
    assert torch.equal(found[f"{LAYER}.weight"], whole[f"{LAYER}.weight"])
    told = json.loads((out / "config.json").read_text())["quantization_config"]
    assert LAYER in told["ignore"]
    assert torch.equal(restore(out).get_parameter(f"{LAYER}.weight"), whole[f"{LAYER}.weight"])


def test_what_an_engine_fuses_stays_together() -> None:
    own = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names = [f"model.layers.{index}.{each}" for index in range(2) for each in own]
    scheme = SchemeRecipe(keep=("model.layers.1.self_attn.k_proj",))
    assert kept_layers(names, QuantizeRecipe(scheme=scheme)) == set(names[4:7])


def test_a_pattern_that_names_no_layer_is_refused(parent: Path, tmp_path: Path) -> None:
    scheme = dataclasses.replace(NEAREST.scheme, keep=("*.wq",))
    with pytest.raises(QuantizeError, match=r"names no layer by '\*\.wq'.* like model\.layers"):
        quantize_folder(parent, tmp_path / "out", QuantizeRecipe(scheme=scheme))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": "int3"}, "no scheme int3: choose one of w4a16, nf4"),
        ({"group_size": 48}, "no kernel takes groups of 48: choose 32, 64 or 128"),
        ({"name": "fp8", "group_size": 32}, "fp8 has no group size to choose"),
    ],
)
def test_a_scheme_that_cannot_be_had_is_one_sentence(told: dict[str, Any], said: str) -> None:
    with pytest.raises(QuantizeError, match=said) as refused:
        scheme_of(QuantizeRecipe(scheme=SchemeRecipe(**told)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            QuantizeRecipe(scheme=SchemeRecipe(name="nf4"), qad=QadRecipe(tokens=100)),
            "nf4 has no grid to train on: leave qad out, or quantize to w4a16",
        ),
        (
            QuantizeRecipe(scheme=SchemeRecipe(scaling="awq"), mixed=MixedRecipe(size_budget=0.5)),
            "w4a16 moves scale between layers here.*: leave the budgets out",
        ),
        (
            QuantizeRecipe(scheme=SchemeRecipe(name="w8a8"), mixed=MixedRecipe(kl_budget=0.5)),
            "w8a8 moves scale between layers here.*: leave the budgets out",
        ),
        (
            QuantizeRecipe(scheme=SchemeRecipe(name="nf4", kv_cache="fp8")),
            "cannot be stored beside nf4: leave the KV cache in 16 bits",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_any_work(
    parent: Path, tmp_path: Path, recipe: QuantizeRecipe, said: str
) -> None:
    recipe = dataclasses.replace(recipe, calibration=FEW)
    with pytest.raises(QuantizeError, match=said) as refused:
        quantize_folder(parent, tmp_path / "out", recipe)
    assert "\n" not in str(refused.value)
    assert not left_behind(tmp_path)


def test_scales_of_an_8_bit_cache_come_with_every_layer(parent: Path, tmp_path: Path) -> None:
    scheme = dataclasses.replace(NEAREST.scheme, kv_cache="fp8")
    out = quantize_folder(parent, tmp_path / "out", QuantizeRecipe(scheme=scheme, calibration=FEW))
    found = stored(out)
    for index in range(2):
        for name in ("k_scale", "v_scale"):
            assert float(found[f"model.layers.{index}.self_attn.{name}"]) > 0
    told = json.loads((out / "config.json").read_text())["quantization_config"]
    assert told["kv_cache_scheme"]["num_bits"] == 8
    assert manifest_of(out).calibration


def test_who_may_read_the_folder_is_as_with_other_files(made: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for file in made.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask
