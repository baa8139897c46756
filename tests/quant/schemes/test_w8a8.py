"""w8a8 as it is stored: codes times a scale, in plain float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from senryu.quant.gptq import Moments, lost
from senryu.quant.grids import Integers, nearest
from senryu.quant.schemes.base import Read
from senryu.quant.schemes.w8a8 import W8A8

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def weights(seed: int = 0, rows: int = 8, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def read(columns: int = 64) -> Read:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(600, columns, generator=made) @ torch.randn(columns, columns, generator=made)
    fitted, judged = (half.T @ half / 300 for half in x.split(300))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=x.abs().amax(dim=0))


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_is_stored_is_what_is_said(rounding: str) -> None:
    scheme = W8A8(rounding=rounding)  # type: ignore[arg-type]
    for each in scheme.store({"q": weights(1), "k": weights(2, 4)}, read()).values():
        assert set(each.tensors) == {"weight", "weight_scale"}
        stored, scale = each.tensors["weight"], each.tensors["weight_scale"]
        assert (stored.dtype, scale.dtype) == (torch.int8, torch.float32)
        assert scale.shape == (len(stored), 1)
        torch.testing.assert_close((stored.double() * scale.double()).float(), each.values)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(-30, 30).map(lambda power: 10.0**power))
def test_every_weight_comes_back_within_half_a_step(seed: int, size: float) -> None:
    weight = weights(seed, 4, 64) * size
    grid = Integers(width=8, symmetric=True, group_size=None, scale_type=torch.float32)
    codes = nearest(weight, grid)
    assert bool(((codes.values() - weight).abs() <= codes.steps.size * (0.5 + 1e-4)).all())


def test_gptq_is_no_worse_than_nearest() -> None:
    seen = read()
    errors = {}
    for rounding in ("gptq", "nearest"):
        scheme = W8A8(rounding=rounding)  # type: ignore[arg-type]
        (stored,) = scheme.store({"q": weights()}, seen).values()
        errors[rounding] = lost(weights(), stored.values, seen.moments.judged)
    assert errors["gptq"] < errors["nearest"]


def test_without_smoothing_no_layer_is_touched() -> None:
    assert W8A8(smoothing=0).balance(nn.Linear(2, 2), {}) == {}
    assert W8A8(smoothing=0).calibrated
    assert not W8A8(smoothing=0, rounding="nearest").calibrated


def test_smoothing_refuses_layers_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="without scaling or smoothing"):
        W8A8().balance(nn.Linear(2, 2), {})


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_smoothing_that_is_no_share_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        W8A8(smoothing=smoothing)


def test_the_config_scales_inputs_by_token() -> None:
    told = W8A8().config(["lm_head"])
    assert told["format"] == "int-quantized"
    group = told["config_groups"]["group_0"]
    assert (group["weights"]["strategy"], group["weights"]["num_bits"]) == ("channel", 8)
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["dynamic"], inputs["type"]) == ("token", True, "int")
