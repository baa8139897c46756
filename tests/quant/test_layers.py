"""Promises of `quant/layers.py`: layer by layer, and after a kill the same bytes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open
from tiny_kinds import some_tokens, tiny, tiny_folder
from torch import Tensor

from senryu.quant.errors import QuantizeError
from senryu.quant.layers import Work, quantize_layers
from senryu.quant.packing import unpack, weights_only
from senryu.quant.parent import open_parent
from senryu.quant.progress import Silent
from senryu.quant.schemes.base import Read, Stored
from senryu.quant.schemes.w4a16 import W4A16

from .conftest import Recorder

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
TOKENS = some_tokens(6, 16)
SCHEME = W4A16()


class Killed(Exception):
    pass


class Dying(Silent):
    """Kills the work when so many layers are finished."""

    def __init__(self, after: int) -> None:
        self.left = after

    def done(self, detail: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise Killed


class Watched(W4A16):
    """w4a16 that remembers what it was asked to store, and dies where it is told."""

    __slots__ = ("asked", "dies")

    def __init__(self, dies: int | None = None, **told: Any) -> None:
        super().__init__(**told)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "dies", dies)

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        self.asked.append((tuple(weights), read))
        if len(self.asked) == self.dies:
            raise Killed
        return W4A16.store(self, weights, read)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "llama")


def quantized(folder: Path, work: Path, *, scheme: Any = SCHEME, **told: Any) -> dict[str, bytes]:
    told = {"digest": "one", "progress": Silent(), "tokens": TOKENS} | told
    quantize_layers(open_parent(folder), scheme, work=Work(work), **told)
    return {file.name: file.read_bytes() for file in sorted(work.glob("layer-*"))}


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return quantized(folder, tmp_path_factory.mktemp("undisturbed") / "work")


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_killed_behind_a_layer_it_goes_on_and_the_bytes_are_the_same(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes], finished: int
) -> None:
    with pytest.raises(Killed):
        quantized(folder, tmp_path / "work", progress=Dying(finished))
    again = Watched()
    assert quantized(folder, tmp_path / "work", scheme=again) == undisturbed
    assert len(again.asked) == 4 * (3 - finished)  # groups of layers that read the same


@pytest.mark.parametrize("group", range(1, 13, 2))
def test_killed_within_a_layer_it_starts_that_one_again(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes], group: int
) -> None:
    with pytest.raises(Killed):
        quantized(folder, tmp_path / "work", scheme=Watched(dies=group))
    again = Watched()
    assert quantized(folder, tmp_path / "work", scheme=again) == undisturbed
    assert len(again.asked) == 12 - 4 * ((group - 1) // 4)


def test_killed_between_a_layer_and_the_states_behind_it_that_layer_is_made_again(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(work: Work, states: Tensor, behind: int) -> None:
        if behind == 2:
            raise Killed
        kept(work, states, behind)

    kept = Work.put_states
    monkeypatch.setattr(Work, "put_states", die)
    with pytest.raises(Killed):
        quantized(folder, tmp_path / "work")
    assert (tmp_path / "work" / "layer-00001.safetensors").exists()
    monkeypatch.undo()
    again = Watched()
    assert quantized(folder, tmp_path / "work", scheme=again) == undisturbed
    assert len(again.asked) == 8


def test_a_real_kill_loses_nothing(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from senryu.quant import layers
from senryu.quant.parent import open_parent
from senryu.quant.progress import Silent
from senryu.quant.schemes.w4a16 import W4A16
import torch

class Dying(Silent):
    def done(self, detail=""):
        os.kill(os.getpid(), signal.SIGKILL)

tokens = torch.tensor({TOKENS.tolist()})
work = layers.Work(Path(sys.argv[2]))
layers.quantize_layers(open_parent(Path(sys.argv[1])), W4A16(), tokens, work, "one", Dying())
"""
    words = [sys.executable, "-c", script, str(folder), str(tmp_path / "work")]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = Watched()
    assert quantized(folder, tmp_path / "work", scheme=again) == undisturbed
    assert len(again.asked) == 8


def test_work_that_is_finished_is_not_repeated(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes], recorder: Recorder
) -> None:
    quantized(folder, tmp_path / "work")
    again = Watched()
    assert quantized(folder, tmp_path / "work", scheme=again, progress=recorder) == undisturbed
    assert not again.asked
    assert recorder.finished == 3


def test_other_work_starts_anew(folder: Path, tmp_path: Path) -> None:
    first = quantized(folder, tmp_path / "work")
    (tmp_path / "work" / "trained-layer-00000.safetensors").write_bytes(b"of the other")
    other = Watched(symmetric=True)
    second = quantized(folder, tmp_path / "work", scheme=other, digest="two")
    assert len(other.asked) == 12
    assert first.keys() == second.keys()
    assert first != second
    assert not (tmp_path / "work" / "trained-layer-00000.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"half of a file", None])
def test_a_file_that_is_not_whole_is_made_again(
    folder: Path, tmp_path: Path, undisturbed: dict[str, bytes], content: bytes | None
) -> None:
    """As a machine leaves it that lost its power. None: cut in the middle."""
    quantized(folder, tmp_path / "work")
    for name in ("layer-00001.safetensors", "states.safetensors"):
        file = tmp_path / "work" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert quantized(folder, tmp_path / "work") == undisturbed


def test_what_is_being_written_is_not_taken_for_a_layer(folder: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    assert work.take("one") == 0
    (work.folder / ".layer-00000.safetensors.partial").write_bytes(b"half")
    assert work.take("one") == 0


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"intermediate_size": 80}, "mlp.gate_proj is 80 x 64, .* multiples of 32"),
        ({"intermediate_size": 96, "group_size": 64}, "mlp.down_proj is 64 x 96, .*groups of 64"),
    ],
)
def test_a_shape_that_no_kernel_takes_is_refused_before_anything_is_written(
    tmp_path: Path, told: dict[str, int], named: str
) -> None:
    scheme = W4A16(group_size=told.pop("group_size", 32))
    odd = tiny_folder(tmp_path / "odd", **told)
    with pytest.raises(QuantizeError, match=named):
        quantized(odd, tmp_path / "work", scheme=scheme)
    assert not (tmp_path / "work").exists()


def test_an_odd_layer_that_stays_in_16_bits_is_in_nobodys_way(tmp_path: Path) -> None:
    odd = tiny_folder(tmp_path / "odd", intermediate_size=80)
    kept = [
        f"model.layers.{i}.mlp.{name}_proj" for i in range(3) for name in ("gate", "up", "down")
    ]
    assert len(quantized(odd, tmp_path / "work", kept=kept)) == 3


def test_what_stays_keeps_the_parents_very_bytes(folder: Path, tmp_path: Path) -> None:
    kept = ["model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj"]
    quantized(folder, tmp_path / "work", kept=kept)
    made = load_file(tmp_path / "work" / "layer-00001.safetensors")
    whole = tiny()
    plain = {name for name in made if name.endswith(".weight")}
    norms = {f"model.layers.1.{name}_layernorm" for name in ("input", "post_attention")}
    assert plain == {f"{name}.weight" for name in (*kept, *norms)}
    for name in plain:
        assert torch.equal(made[name], whole.get_parameter(name))
    assert "model.layers.1.self_attn.q_proj.weight_packed" in made


def test_what_stays_of_a_16_bit_float_model_keeps_its_digits(tmp_path: Path) -> None:
    tiny().half().save_pretrained(tmp_path / "half")
    name = "model.layers.0.mlp.up_proj"
    quantized(tmp_path / "half", tmp_path / "work", kept=[name])
    made = load_file(tmp_path / "work" / "layer-00000.safetensors")[f"{name}.weight"]
    assert made.dtype == torch.float16


def test_scale_that_moved_reaches_what_stays(folder: Path, tmp_path: Path) -> None:
    """A layer in 16 bits makes up for the norm in front of it like those that are rounded."""
    name = "model.layers.0.mlp.gate_proj"
    quantized(folder, tmp_path / "work", scheme=W4A16(scaling="awq"), kept=[name])
    made = load_file(tmp_path / "work" / "layer-00000.safetensors")
    norm = "model.layers.0.post_attention_layernorm.weight"
    whole = tiny()
    assert not torch.equal(made[norm], whole.get_parameter(norm))
    both = made[f"{name}.weight"].float() * made[norm].float()
    plain = whole.get_parameter(f"{name}.weight").float() * whole.get_parameter(norm).float()
    torch.testing.assert_close(both, plain, rtol=2e-2, atol=1e-3)


def test_each_layer_is_fitted_to_what_the_quantized_ones_before_it_say(
    folder: Path, tmp_path: Path
) -> None:
    watched = Watched()
    quantized(folder, tmp_path / "work", scheme=watched)
    names, read = watched.asked[8]
    assert names == tuple(f"self_attn.{each}_proj" for each in "qkv")
    assert read
    plain, quantized_before = tiny(), tiny()
    for index in range(2):
        for name, values in values_of(tmp_path / "work", index).items():
            quantized_before.get_submodule(name).weight.data.copy_(values)
    found = read.moments.fitted
    near, far = (
        float((found - moments_of_the_third_layer(each)).norm() / found.norm())
        for each in (quantized_before, plain)
    )
    assert near < 0.01
    assert far > 4 * near


def moments_of_the_third_layer(model: Any) -> Tensor:
    seen: list[Tensor] = []
    model.model.layers[2].self_attn.q_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].flatten(0, 1).float())
    )
    with torch.no_grad():
        for batch in TOKENS[[0, 1, 2, 3, 5]].split(4):  # the fifth judges
            model.model(input_ids=batch)
    told = torch.cat(seen)
    return told.T @ told / len(told)


def values_of(work: Path, index: int) -> dict[str, Tensor]:
    stored: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(work / f"layer-{index:05d}.safetensors").items():
        layer, _, own = name.rpartition(".")
        if own.startswith("weight_"):
            stored.setdefault(layer, {})[own] = tensor
    return {name: unpack(each, weights_only(SCHEME.grid)) for name, each in stored.items()}


def test_without_a_calibration_set_the_same_layers_come_together(
    folder: Path, tmp_path: Path
) -> None:
    with_set, without = Watched(), Watched(rounding="nearest")
    quantized(folder, tmp_path / "one", scheme=with_set)
    quantized(folder, tmp_path / "two", scheme=without, tokens=None)
    assert names_of(with_set.asked) == names_of(without.asked)
    assert not any(read for _, read in without.asked)


def names_of(asked: Sequence[tuple[tuple[str, ...], Any]]) -> list[tuple[str, ...]]:
    return [names for names, _ in asked]


def test_the_greatest_keys_and_values_are_noted_where_that_is_asked(
    folder: Path, tmp_path: Path
) -> None:
    quantized(folder, tmp_path / "work", watch=True)
    for file in sorted((tmp_path / "work").glob("layer-*")):
        with safe_open(file, framework="pt") as stored:
            assert "self_attn.k_proj" in stored.metadata()["outputs"]


def test_a_weight_without_codes_is_one_sentence_that_names_the_layer(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(QuantizeError, match=r"model\.layers\.1\.mlp\.gate_proj cannot be") as told:
        quantized(tmp_path / "broken", tmp_path / "work", scheme=W4A16(rounding="nearest"))
    assert "\n" not in str(told.value)


def test_a_layer_that_cannot_be_balanced_is_one_sentence(tmp_path: Path) -> None:
    gemma = tiny_folder(tmp_path / "gemma2", "gemma2")
    with pytest.raises(QuantizeError, match=r"model\.layers\.0 cannot be quantized \(") as told:
        quantized(gemma, tmp_path / "work", scheme=W4A16(scaling="awq"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
def test_biases_and_norms_come_along(kind: str, tmp_path: Path) -> None:
    quantized(tiny_folder(tmp_path / kind, kind), tmp_path / "work")
    made = load_file(tmp_path / "work" / "layer-00000.safetensors")
    for name, weight in tiny(kind).named_parameters():
        if name.startswith("model.layers.0.") and weight.ndim == 1:
            assert torch.equal(made[name], weight)
