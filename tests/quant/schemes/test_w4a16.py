"""Promises of `quant/schemes/w4a16.py`: groups that a kernel takes, rounded as was asked."""

from typing import Any

import pytest
import torch

from senryu.quant.gptq import Moments, gptq, lost
from senryu.quant.grids import Integers, nearest
from senryu.quant.packing import unpack, weights_only
from senryu.quant.schemes.base import Read, Scheme
from senryu.quant.schemes.w4a16 import W4A16

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

BOTH = pytest.mark.parametrize("symmetric", [True, False])


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(features: int) -> Read:
    read = made(1, 400, features) @ made(2, features, features) / features**0.5
    fitted, judged = (part.T @ part / len(part) for part in (read[:200], read[200:]))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=read.abs().amax(0))


def test_it_is_a_scheme() -> None:
    scheme: Scheme = W4A16()
    assert scheme.name == "w4a16"
    assert "cpu" in scheme.runs_on
    assert (scheme.multiple, scheme.group_size) == (32, 32)


@pytest.mark.parametrize("size", [0, 16, 33, 256])
def test_groups_that_no_kernel_takes_are_refused_with_those_that_it_does(size: int) -> None:
    with pytest.raises(ValueError, match=f"groups of {size}: choose 32, 64 or 128"):
        W4A16(group_size=size)


@pytest.mark.parametrize(
    ("told", "calibrated"),
    [
        ({}, True),
        ({"rounding": "nearest"}, False),
        ({"rounding": "nearest", "scaling": "awq"}, True),
    ],
)
def test_it_asks_for_calibration_only_where_it_uses_it(
    told: dict[str, Any], calibrated: bool
) -> None:
    assert W4A16(**told).calibrated is calibrated


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "Rounded by GPTQ, 4 bits, asymmetric, groups of 32."),
        (
            {"rounding": "nearest", "symmetric": True, "group_size": 128},
            "Rounded to nearest, 4 bits, symmetric, groups of 128.",
        ),
        ({"scaling": "awq"}, "Rounded by GPTQ after AWQ scaling, 4 bits, asymmetric,"),
    ],
)
def test_the_manifest_is_told_how_the_codes_were_chosen(told: dict[str, Any], said: str) -> None:
    assert W4A16(**told).made.startswith(said)


@BOTH
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_layers_are_stored_as_gptq_rounds_them(symmetric: bool, group_size: int) -> None:
    weight, read = made(3, 16, 128), seen(128)
    scheme = W4A16(symmetric=symmetric, group_size=group_size)
    stored = scheme.store({"o_proj": weight}, read)["o_proj"]
    grid = Integers(symmetric=symmetric, group_size=group_size)
    assert torch.equal(stored.values, gptq(weight, grid, read.moments).values())
    assert torch.equal(unpack(stored.tensors, weights_only(grid)), stored.values)
    alone = nearest(weight, grid).values()
    judged = read.moments.judged
    assert lost(weight, stored.values, judged) < 0.9 * lost(weight, alone, judged)


def test_to_nearest_what_the_layer_reads_changes_nothing() -> None:
    weight = made(4, 16, 64)
    stored = W4A16(rounding="nearest").store({"o_proj": weight}, seen(64))["o_proj"]
    grid = Integers(symmetric=False, group_size=32)
    assert torch.equal(stored.values, nearest(weight, grid).values())


def test_without_scaling_a_layer_is_left_as_it_is() -> None:
    layer = torch.nn.Linear(64, 16)
    before = layer.weight.clone()
    assert W4A16().balance(layer, {"": seen(64)}) == {}
    assert torch.equal(layer.weight, before)


@BOTH
def test_the_engine_is_told_the_same_grid_and_what_stays(symmetric: bool) -> None:
    told = W4A16(symmetric=symmetric, group_size=64).config(["lm_head", "model.x"])
    assert told["format"] == "pack-quantized"
    assert told["ignore"] == ["lm_head", "model.x"]
    group = told["config_groups"]["group_0"]
    assert group["input_activations"] is None
    weights = group["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 64, symmetric)


def test_a_layer_that_cannot_be_cut_into_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="96 input features cannot be cut into groups of 64"):
        W4A16(group_size=64, rounding="nearest").store({"x": made(5, 32, 96)}, None)
