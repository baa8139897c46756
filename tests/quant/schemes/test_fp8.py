"""FP8 as it is stored, read back by a decoder in plain float64 that knows only the format."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from senryu.quant.grids import Fp8, nearest
from senryu.quant.schemes.fp8 import Fp8Scheme

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def e4m3(byte: int) -> float:
    """Four bits of exponent, three of mantissa (OCP 8-bit floating point, 2023)."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    size = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
    return -size if sign else size


def weights(seed: int = 0, rows: int = 8, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def test_what_is_stored_is_what_is_said() -> None:
    for each in Fp8Scheme().store({"q": weights(1), "k": weights(2, 4)}, None).values():
        assert set(each.tensors) == {"weight", "weight_scale"}
        stored, scale = each.tensors["weight"], each.tensors["weight_scale"]
        assert (stored.dtype, scale.shape) == (torch.float8_e4m3fn, (len(stored), 1))
        bytes_ = stored.view(torch.uint8).tolist()
        values = torch.tensor([[e4m3(byte) for byte in row] for row in bytes_]).double()
        torch.testing.assert_close((values * scale.double()).float(), each.values)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(-25, 25).map(lambda power: 10.0**power))
def test_every_weight_comes_back_within_a_sixteenth(seed: int, size: float) -> None:
    weight = weights(seed, 4, 64) * size
    weight[:, ::7] *= 1e-5  # so that some are subnormal
    codes = nearest(weight, Fp8())
    promised = torch.maximum(weight.abs() / 16, codes.steps.size * 2.0**-10)
    assert bool(((codes.values() - weight).abs() <= promised * (1 + 1e-5)).all())


@pytest.mark.parametrize(
    ("weight", "why"),
    [(torch.ones(8), "Only matrices"), (torch.full((8, 64), float("inf")), "infinite")],
)
def test_what_has_no_codes_is_refused(weight: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Fp8Scheme().store({"q": weight}, None)


def test_the_config_scales_inputs_by_token() -> None:
    told = Fp8Scheme().config(["lm_head"])
    assert told["format"] == "float-quantized"
    group = told["config_groups"]["group_0"]
    assert (group["weights"]["strategy"], group["weights"]["type"]) == ("channel", "float")
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["dynamic"], inputs["num_bits"]) == ("token", True, 8)
