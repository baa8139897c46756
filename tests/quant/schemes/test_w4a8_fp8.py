"""w4a8-fp8 as it is stored, and as vLLM's kernel for Hopper rounds its scales once more."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from senryu.quant.gptq import Moments, best_steps, lost
from senryu.quant.grids import RowScaledIntegers, nearest
from senryu.quant.schemes.base import Read
from senryu.quant.schemes.w4a8_fp8 import W4A8Fp8

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

GRID = RowScaledIntegers(symmetric=True, group_size=128)


def weights(seed: int = 0, rows: int = 8, columns: int = 512) -> Tensor:
    """Groups of unlike size, as the scales of a row shall be unlike."""
    made = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, columns // 128, generator=made).repeat_interleave(128, dim=1)
    return torch.randn(rows, columns, generator=made) * size


def read(columns: int = 512) -> Read:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(2000, columns, generator=made) @ torch.randn(columns, columns, generator=made)
    fitted, judged = (half.T @ half / 1000 for half in x.split(1000))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=x.abs().amax(dim=0))


def of_the_kernel(scale: Tensor) -> Tensor:
    """One number a row, 8-bit floats under it, of which it takes an eighth."""
    row = scale.float().amax(dim=1, keepdim=True) / 448
    eighth = ((scale.float() / row).to(torch.float8_e4m3fn).float() / 8).to(torch.float8_e4m3fn)
    return eighth.float() * 8 * row


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_is_stored_is_what_is_said(rounding: str) -> None:
    """Eight codes in 32 bits, the first in the lowest, each with 8 added."""
    scheme = W4A8Fp8(rounding=rounding)  # type: ignore[arg-type]
    for each in scheme.store({"q": weights(1), "k": weights(2, 4)}, read()).values():
        packed, scale = each.tensors["weight_packed"], each.tensors["weight_scale"]
        assert each.tensors["weight_shape"].tolist() == list(each.values.shape)
        assert (packed.dtype, scale.dtype) == (torch.int32, torch.bfloat16)
        codes = torch.tensor(
            [
                [(word >> 4 * at & 15) - 8 for word in row for at in range(8)]
                for row in packed.tolist()
            ]
        )
        values = codes.double() * scale.double().repeat_interleave(128, dim=1)
        torch.testing.assert_close(values.float(), each.values)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(-25, 25).map(lambda power: 10.0**power))
def test_every_weight_comes_back_within_half_a_step(seed: int, size: float) -> None:
    weight = weights(seed, 4) * size
    codes = nearest(weight, GRID)
    step, _ = codes.steps.of_columns(512)
    assert bool(((codes.values() - weight).abs() <= step * (0.5 + 1e-4)).all())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_kernel_finds_the_scales_that_were_fitted(seed: int) -> None:
    """But for what bfloat16 takes, also where groups were cut off by unlike parts."""
    scale = best_steps(weights(seed), GRID, torch.ones(512)).scale
    torch.testing.assert_close(of_the_kernel(scale), scale.float(), rtol=2**-8, atol=0)


def test_gptq_is_no_worse_than_nearest() -> None:
    seen = read()
    errors = {}
    for rounding in ("gptq", "nearest"):
        scheme = W4A8Fp8(rounding=rounding)  # type: ignore[arg-type]
        (stored,) = scheme.store({"q": weights()}, seen).values()
        errors[rounding] = lost(weights(), stored.values, seen.moments.judged)
    assert errors["gptq"] < errors["nearest"]


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.ones(8, 192), "groups of 128"),
        (torch.ones(8), "Only matrices"),
        (torch.full((8, 128), float("nan")), "undefined"),
    ],
)
def test_what_has_no_codes_is_refused(weight: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        W4A8Fp8().store({"q": weight}, None)


def test_a_matrix_of_zeros_stays_zero() -> None:
    (stored,) = W4A8Fp8().store({"q": torch.zeros(8, 128)}, None).values()
    assert not bool(stored.values.any())


def test_the_config_says_packed_integers_and_8_bit_inputs() -> None:
    told = W4A8Fp8().config(["lm_head"])
    assert told["format"] == "pack-quantized"
    group = told["config_groups"]["group_0"]
    assert group["format"] == "pack-quantized"
    assert (group["weights"]["type"], group["weights"]["group_size"]) == ("int", 128)
    inputs = group["input_activations"]
    assert (inputs["type"], inputs["strategy"], inputs["dynamic"]) == ("float", "token", True)
