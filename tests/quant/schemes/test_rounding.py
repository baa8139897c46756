"""Promises of `quant/schemes/rounding.py`: layers rounded together are as if rounded alone."""

import pytest
import torch

from senryu.quant.gptq import Moments
from senryu.quant.grids import Codes, Integers, NvFp4, nearest
from senryu.quant.packing import pack, unpack, weights_only
from senryu.quant.schemes.base import Read
from senryu.quant.schemes.rounding import rounded, rows

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

GRIDS = pytest.mark.parametrize(
    "grid",
    [Integers(symmetric=True, group_size=32), Integers(symmetric=False, group_size=32)],
    ids=["symmetric", "asymmetric"],
)
HEADS = {"q_proj": 16, "k_proj": 8, "v_proj": 8}


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers() -> dict[str, torch.Tensor]:
    """Of unequal heights and sizes."""
    return {
        name: made(seed, height, 64) * (seed + 1)
        for seed, (name, height) in enumerate(HEADS.items())
    }


def seen() -> Read:
    read = made(10, 400, 64) @ made(11, 64, 64) / 8
    fitted, judged = (part.T @ part / len(part) for part in (read[:200], read[200:]))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=read.abs().amax(0))


@GRIDS
def test_to_nearest_each_layer_gets_what_it_would_get_alone(grid: Integers) -> None:
    stored = rounded(layers(), grid, None, weights_only(grid))
    assert list(stored) == list(HEADS)
    for name, weight in layers().items():
        alone = nearest(weight, grid)
        assert torch.equal(stored[name].values, alone.values())
        expected = pack(alone, weights_only(grid))
        assert set(stored[name].tensors) == set(expected)
        for kind, tensor in stored[name].tensors.items():
            assert torch.equal(tensor, expected[kind])


@GRIDS
def test_with_calibration_the_stored_tensors_stand_for_the_values(grid: Integers) -> None:
    scheme = weights_only(grid)
    stored = rounded(layers(), grid, seen(), scheme)
    for name, weight in layers().items():
        assert stored[name].values.shape == weight.shape
        assert stored[name].values.dtype == torch.float32
        assert torch.equal(unpack(stored[name].tensors, scheme), stored[name].values)
        assert not torch.equal(stored[name].values, nearest(weight, grid).values())


@GRIDS
def test_with_calibration_rows_of_several_layers_do_not_mix(
    grid: Integers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One damping is chosen for all of them; with one to choose from, nothing else is shared."""
    monkeypatch.setattr(
        "senryu.quant.gptq.gptq.__kwdefaults__", {"damping": (0.01,), "shrink": (1.0,)}
    )
    together = rounded(layers(), grid, seen(), weights_only(grid))
    for name, weight in layers().items():
        alone = rounded({name: weight}, grid, seen(), weights_only(grid))
        assert torch.equal(together[name].values, alone[name].values)


def test_weights_in_sixteen_bits_are_taken_as_they_are() -> None:
    grid = Integers(symmetric=True, group_size=32)
    short = {name: weight.bfloat16() for name, weight in layers().items()}
    long = {name: weight.float() for name, weight in short.items()}
    found, expected = (rounded(each, grid, seen(), weights_only(grid)) for each in (short, long))
    for name in short:
        assert torch.equal(found[name].values, expected[name].values)


def test_one_bad_weight_refuses_the_layers_that_go_with_it() -> None:
    bad = layers()
    bad["k_proj"][0, 0] = torch.nan
    grid = Integers(symmetric=True, group_size=32)
    with pytest.raises(ValueError, match="infinite or undefined numbers"):
        rounded(bad, grid, None, weights_only(grid))


@pytest.mark.parametrize("grid", [Integers(symmetric=False, group_size=32), NvFp4()])
def test_rows_of_codes_stand_for_rows_of_values(grid: Integers | NvFp4) -> None:
    """What the whole matrix shares, such as the scale of all scales, stays with each part."""
    codes = nearest(made(12, 16, 64), grid)
    part: Codes = rows(codes, 3, 9)
    assert torch.equal(part.values(), codes.values()[3:9])
    assert part.steps.global_scale is codes.steps.global_scale
