"""What a folder says of a cache in 8-bit floats."""

import pytest
import torch

from senryu.quant.kv_cache import kv_scales, scheme

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_the_greatest_becomes_the_highest_float() -> None:
    scales = kv_scales(89.6, 3.5)
    assert (89.6 / scales["k_scale"]).to(torch.float8_e4m3fn).item() == 448
    assert (-3.5 / scales["v_scale"]).to(torch.float8_e4m3fn).item() == -448
    assert all((each.shape, each.dtype) == ((1,), torch.float32) for each in scales.values())


def test_what_is_always_zero_needs_no_scale() -> None:
    """To vLLM a scale that is not above zero is none."""
    assert kv_scales(0.0, 0.0) == {"k_scale": torch.ones(1), "v_scale": torch.ones(1)}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_what_cannot_be_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="undefined"):
        kv_scales(1.0, wrong)
    with pytest.raises(ValueError, match="undefined"):
        kv_scales(wrong, 1.0)


def test_the_config_is_one_that_can_be_written() -> None:
    told = scheme()
    assert (told["num_bits"], told["type"], told["strategy"]) == (8, "float", "tensor")
    assert told["symmetric"]
    assert not told["dynamic"]
