"""NVFP4 as it is stored, read back by a decoder in plain float64 that knows only the format."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from senryu.quant.gptq import Moments, lost
from senryu.quant.grids import NvFp4, nearest
from senryu.quant.packing import pack, unpack, weights_only
from senryu.quant.schemes.base import Read
from senryu.quant.schemes.nvfp4 import NvFp4Scheme

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def e4m3(byte: int) -> float:
    """Four bits of exponent, three of mantissa (OCP 8-bit floating point, 2023)."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    size = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
    return -size if sign else size


def decoded(tensors: dict[str, Tensor]) -> Tensor:
    """Two codes a byte, the first in its lower half; scales are divided by the one above all."""
    whole = float(tensors["weight_global_scale"].double())
    rows = []
    scales = tensors["weight_scale"].view(torch.uint8).tolist()
    for packed, scale in zip(tensors["weight_packed"].tolist(), scales, strict=True):
        nibbles = [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
        signed = [-E2M1[n - 8] if n > 7 else E2M1[n] for n in nibbles]
        rows.append([value * e4m3(scale[at // 16]) / whole for at, value in enumerate(signed)])
    return torch.tensor(rows, dtype=torch.float64)


def weights(seed: int = 0, rows: int = 8, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def read(columns: int = 64, seed: int = 0) -> Read:
    """Of features that go together, so that there is something for GPTQ to use."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(600, columns, generator=made) @ torch.randn(columns, columns, generator=made)
    fitted, judged = (half.T @ half / 300 for half in x.split(300))
    return Read(moments=Moments(fitted=fitted, judged=judged), largest=x.abs().amax(dim=0))


@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_is_stored_is_what_is_said(activations: bool, rounding: Any) -> None:
    scheme = NvFp4Scheme(activations=activations, rounding=rounding)
    for each in scheme.store({"q": weights(1), "k": weights(2, 4) * 0.01}, read()).values():
        told = dict(each.tensors)
        torch.testing.assert_close(decoded(told).float(), each.values, rtol=1e-6, atol=0)
        assert told["weight_packed"].dtype == torch.uint8
        assert told["weight_scale"].dtype == torch.float8_e4m3fn
        assert told["weight_global_scale"].shape == (1,)
        assert ("input_global_scale" in told) == activations


def test_the_library_reads_it_back_to_the_last_bit() -> None:
    codes = nearest(weights(), NvFp4())
    told = weights_only(NvFp4())
    assert torch.equal(unpack(pack(codes, told), told), codes.values())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.floats(-30, 30).map(lambda power: 10.0**power),
    spread=st.floats(0, 4),
)
def test_every_weight_comes_back_within_a_scale(seed: int, size: float, spread: float) -> None:
    weight = weights(seed, 4, 32) * size
    weight *= (torch.arange(4)[:, None] * -spread).exp()
    codes = nearest(weight, NvFp4())
    scale, _ = codes.steps.of_columns(32)
    assert bool(((codes.values() - weight).abs() <= scale * (1 + 1e-5)).all())
    assert float(codes.steps.scale.float().amin()) >= 2.0**-6


def test_a_matrix_of_zeros_stays_zero() -> None:
    (stored,) = NvFp4Scheme(rounding="nearest").store({"q": torch.zeros(8, 64)}, read()).values()
    assert not bool(stored.values.any())
    assert all(bool(each.float().isfinite().all()) for each in stored.tensors.values())


def test_layers_that_are_fused_share_what_is_above_their_scales() -> None:
    """vLLM keeps only one number for them, of their weights and of their input."""
    stored = NvFp4Scheme().store({"q": weights(1), "k": weights(2) * 30, "v": weights(3)}, read())
    for name in ("weight_global_scale", "input_global_scale"):
        assert len({float(each.tensors[name]) for each in stored.values()}) == 1
        # ... though not one tensor, which could not be written to a file twice.
        assert len({each.tensors[name].data_ptr() for each in stored.values()}) == 3


def test_the_greatest_input_fits() -> None:
    """In units of the group it is 6, under the highest scale there is."""
    seen = read()
    (stored,) = NvFp4Scheme().store({"q": weights()}, seen).values()
    reach = float(seen.largest.max()) * float(stored.tensors["input_global_scale"])
    assert reach == pytest.approx(448 * 6)


def test_gptq_is_no_worse_than_nearest() -> None:
    seen = read()
    errors = {}
    for rounding in ("gptq", "nearest"):
        scheme = NvFp4Scheme(rounding=rounding)  # type: ignore[arg-type]
        (stored,) = scheme.store({"q": weights()}, seen).values()
        errors[rounding] = lost(weights(), stored.values, seen.moments.judged)
    assert errors["gptq"] < errors["nearest"]


def test_inputs_that_were_not_seen_are_refused() -> None:
    with pytest.raises(ValueError, match="nvfp4a16"):
        NvFp4Scheme().store({"q": weights()}, None)
    unseen = NvFp4Scheme(activations=False, rounding="nearest")
    assert set(unseen.store({"q": weights()}, None)) == {"q"}
    assert not unseen.calibrated


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.ones(8, 40), "groups of 16"),
        (torch.ones(8), "Only matrices"),
        (torch.full((8, 64), float("nan")), "undefined"),
    ],
)
def test_what_has_no_codes_is_refused(weight: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NvFp4Scheme().store({"q": weight}, read())


def test_undefined_inputs_are_refused() -> None:
    seen = read()
    seen.largest[3] = float("nan")
    with pytest.raises(ValueError, match="undefined"):
        NvFp4Scheme(rounding="nearest").store({"q": weights()}, seen)


def test_the_config_says_what_is_done_to_inputs() -> None:
    told = NvFp4Scheme().config(["lm_head"])
    assert told["format"] == "nvfp4-pack-quantized"
    assert told["ignore"] == ["lm_head"]
    group = told["config_groups"]["group_0"]
    assert group["weights"]["strategy"] == "tensor_group"
    assert group["input_activations"]["dynamic"] == "local"
    only = NvFp4Scheme(activations=False)
    assert only.config([])["config_groups"]["group_0"]["input_activations"] is None
    assert (NvFp4Scheme().name, only.name) == ("nvfp4", "nvfp4a16")
