"""MXFP4 as it is stored, read back by a decoder in plain float64 that knows only the format."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from senryu.quant.gptq import Moments, lost
from senryu.quant.grids import MxFp4, nearest
from senryu.quant.packing import pack, unpack, weights_only
from senryu.quant.schemes.base import Read
from senryu.quant.schemes.mxfp4 import MxFp4Scheme

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def decoded(tensors: dict[str, Tensor]) -> Tensor:
    """Two codes a byte, the first in its lower half; a scale is 2^(its byte - 127)."""
    rows = []
    scales = tensors["weight_scale"].tolist()
    for packed, scale in zip(tensors["weight_packed"].tolist(), scales, strict=True):
        nibbles = [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
        signed = [-E2M1[n - 8] if n > 7 else E2M1[n] for n in nibbles]
        rows.append([value * 2.0 ** (scale[at // 32] - 127) for at, value in enumerate(signed)])
    return torch.tensor(rows, dtype=torch.float64)


def weights(seed: int = 0, rows: int = 8, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def read(columns: int = 64) -> Read:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(600, columns, generator=made) @ torch.randn(columns, columns, generator=made)
    fitted, judged = (half.T @ half / 300 for half in x.split(300))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=x.abs().amax(dim=0))


@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_is_stored_is_what_is_said(activations: bool, rounding: Any) -> None:
    scheme = MxFp4Scheme(activations=activations, rounding=rounding)
    for each in scheme.store({"q": weights(1), "k": weights(2, 4) * 0.01}, read()).values():
        told = dict(each.tensors)
        assert torch.equal(decoded(told).float(), each.values)
        assert set(told) == {"weight_packed", "weight_scale"}
        assert told["weight_packed"].dtype == told["weight_scale"].dtype == torch.uint8


def test_every_scale_there_is_comes_back() -> None:
    weight = torch.exp2(torch.arange(-124, 126).float())[:, None].expand(-1, 32) * 6
    codes = nearest(weight, MxFp4())
    assert torch.equal(codes.values(), weight)
    stored = pack(codes, weights_only(MxFp4()))
    assert stored["weight_scale"].flatten().tolist() == list(range(3, 253))
    assert torch.equal(unpack(stored, weights_only(MxFp4())), weight)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(-30, 30).map(lambda power: 10.0**power))
def test_every_weight_comes_back_within_a_scale(seed: int, size: float) -> None:
    weight = weights(seed, 4, 64) * size
    codes = nearest(weight, MxFp4())
    scale, _ = codes.steps.of_columns(64)
    assert bool(((codes.values() - weight).abs() <= scale).all())


@settings(max_examples=50, deadline=None)
@given(mantissa=st.floats(1, 2, width=32), power=st.integers(-90, 90))
def test_a_group_gets_the_scale_of_the_specification_or_the_next(
    mantissa: float, power: int
) -> None:
    """The next where it would cut off more than what is between 6 units and 7."""
    largest = mantissa * 2.0**power
    weight = torch.zeros(1, 32)
    weight[0, 3] = -largest
    exponent = math.floor(math.log2(largest)) - 2
    if largest / 2.0**exponent > 7:
        exponent += 1
    assert float(MxFp4().fit(weight).scale) == 2.0**exponent


def test_a_matrix_of_zeros_stays_zero() -> None:
    (stored,) = MxFp4Scheme().store({"q": torch.zeros(8, 64)}, read()).values()
    assert not bool(stored.values.any())


def test_gptq_is_no_worse_than_nearest() -> None:
    seen = read()
    errors = {}
    for rounding in ("gptq", "nearest"):
        scheme = MxFp4Scheme(rounding=rounding)  # type: ignore[arg-type]
        (stored,) = scheme.store({"q": weights()}, seen).values()
        errors[rounding] = lost(weights(), stored.values, seen.moments.judged)
    assert errors["gptq"] < errors["nearest"]


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.ones(8, 48), "groups of 32"),
        (torch.ones(8), "Only matrices"),
        (torch.full((8, 64), float("inf")), "infinite"),
    ],
)
def test_what_has_no_codes_is_refused(weight: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MxFp4Scheme().store({"q": weight}, read())


def test_each_name_runs_where_it_is_what_happens() -> None:
    """vLLM rounds inputs on Blackwell whatever the config says, and never before it."""
    both, weights_alone = MxFp4Scheme(), MxFp4Scheme(activations=False)
    assert (both.name, weights_alone.name) == ("mxfp4", "mxfp4a16")
    assert not set(both.runs_on) & set(weights_alone.runs_on)


def test_the_config_says_what_is_done_to_inputs() -> None:
    told = MxFp4Scheme().config(["lm_head"])
    assert told["format"] == "mxfp4-pack-quantized"
    group = told["config_groups"]["group_0"]
    assert (group["weights"]["group_size"], group["weights"]["strategy"]) == (32, "group")
    assert group["input_activations"]["num_bits"] == 4
    only = MxFp4Scheme(activations=False).config([])
    assert only["config_groups"]["group_0"]["input_activations"] is None
