"""AutoRound's codes are on our grid, and are those that the library chose."""

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from senryu.quant.errors import QuantizeError
from senryu.quant.grids import Codes, Integers, nearest
from senryu.quant.progress import Silent
from senryu.quant.schemes.autoround import AutoRound

LAYERS = 2
ROWS = 6
KEPT = ("lm_head", "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")


class Counting(Silent):
    def __init__(self) -> None:
        self.units = 0

    def done(self, detail: str = "") -> None:
        self.units += 1


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parent")
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 512, (length,), generator=generator) for length in [48] * ROWS + [20]]


def weights(parent: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(parent / "model.safetensors")


def learnt(
    parent: Path, sequences: Sequence[Tensor], kept: Sequence[str] = ("lm_head",), **told: Any
) -> dict[str, Codes]:
    pytest.importorskip("auto_round", reason="comes with senryu[models]")
    scheme = AutoRound(**{"iterations": 3, **told})
    return dict(scheme.codes(parent, sequences, kept, Silent()))


def outputs(parent: Path, rows: Tensor, codes: dict[str, Codes]) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    with torch.no_grad():
        for name, each in codes.items():
            model.get_submodule(name).weight.copy_(each.values())
        logits: Tensor = model(rows).logits
    return logits


@pytest.mark.filterwarnings("ignore")  # the library's own, of what it imports
@pytest.mark.parametrize(("symmetric", "group"), [(True, 32), (False, 64)])
def test_every_layer_comes_on_our_grid(
    parent: Path, sequences: list[Tensor], symmetric: bool, group: int
) -> None:
    found = learnt(parent, sequences, symmetric=symmetric, group_size=group)
    assert len(found) == 7 * LAYERS
    stored = weights(parent)
    for name, codes in found.items():
        weight = stored[f"{name}.weight"]
        assert codes.codes.shape == weight.shape
        assert torch.equal(codes.codes, codes.codes.round().clamp(-8, 7))
        assert codes.steps.scale.shape == (weight.shape[0], weight.shape[1] // group)
        assert codes.steps.scale.dtype == torch.bfloat16
        assert (codes.steps.zero is None) == symmetric
        # Three steps of learning go far astray; another layout would have nothing in common.
        error = (codes.values() - weight.float()).norm()
        assert error < 0.5 * weight.float().norm()


@pytest.mark.filterwarnings("ignore")
def test_learning_brings_the_outputs_nearer(parent: Path, sequences: list[Tensor]) -> None:
    """Nearer than rounding to nearest does, on the tokens that it learnt from."""
    rows = torch.stack(sequences[:ROWS])
    wanted = outputs(parent, rows, {})
    grid = Integers(symmetric=False, group_size=32)
    found = learnt(parent, sequences, iterations=40)
    rounded = {name: nearest(weights(parent)[f"{name}.weight"], grid) for name in found}
    assert (outputs(parent, rows, found) - wanted).norm() < 0.9 * (
        outputs(parent, rows, rounded) - wanted
    ).norm()


@pytest.mark.filterwarnings("ignore")
def test_kept_layers_are_left_out_and_each_decoder_layer_is_a_unit(
    parent: Path, sequences: list[Tensor]
) -> None:
    pytest.importorskip("auto_round", reason="comes with senryu[models]")
    progress = Counting()
    found = dict(AutoRound(iterations=2).codes(parent, sequences, KEPT, progress))
    assert len(found) == 7 * LAYERS - 2
    assert not set(KEPT) & set(found)
    assert progress.units == LAYERS


@pytest.mark.filterwarnings("ignore")
def test_what_is_packed_stands_for_the_same_weights(parent: Path, sequences: list[Tensor]) -> None:
    """Also where the library chose a negative scale, as it does on the symmetric grid."""
    from senryu.quant.packing import pack, unpack, weights_only

    for symmetric in (False, True):
        scheme = weights_only(Integers(symmetric=symmetric, group_size=32))
        for codes in learnt(parent, sequences, symmetric=symmetric).values():
            assert torch.allclose(unpack(pack(codes, scheme), scheme), codes.values())


def test_without_the_library_the_extra_is_named(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name == "auto_round":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(QuantizeError, match=r"senryu\[models\]"):
        next(iter(AutoRound().codes(parent, [torch.arange(64)], (), Silent())))


@pytest.mark.parametrize(
    ("told", "says"),
    [({"group_size": 16}, "choose 32, 64 or 128"), ({"iterations": 0}, "at least 1")],
)
def test_settings_that_no_kernel_takes_are_refused(told: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AutoRound(**told)


@pytest.mark.filterwarnings("ignore")
def test_an_empty_calibration_set_is_refused(parent: Path) -> None:
    with pytest.raises(QuantizeError, match="this one is empty"):
        learnt(parent, [])


def test_a_layer_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="whole models"):
        AutoRound().store({}, None)


def test_its_folder_is_described_as_that_of_w4a16() -> None:
    from senryu.quant.schemes.w4a16 import W4A16

    assert AutoRound().config(["lm_head"]) == W4A16().config(["lm_head"])
