"""Promises of `quant/rtn.py`: every weight comes back within half a step of its group's grid."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.quant.rtn import HIGHEST, LOWEST, GroupCodes, quantize

BOTH = pytest.mark.parametrize("symmetric", [True, False])


def weights(
    seed: int, rows: int, columns: int, size: float = 0.05, shift: float = 0.0
) -> torch.Tensor:
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return made * size + shift


def reference(group: list[float], scale: float, symmetric: bool) -> tuple[list[int], int]:
    """Codes and zero point of one group in plain Python floats, which are float64."""
    zero = 0
    if not symmetric:
        zero = min(7, max(-8, round(-8 - min(0.0, *group) / scale)))
    return [min(7, max(-8, round(w / scale + zero))) for w in group], zero


@BOTH
def test_codes_agree_with_plain_python_in_float64(symmetric: bool) -> None:
    weight = weights(1, 6, 64)
    made = quantize(weight, group_size=16, symmetric=symmetric)
    for row in range(6):
        for number in range(4):
            group = weight[row, number * 16 : number * 16 + 16].tolist()
            scale = made.scale[row, number].item()
            codes, zero = reference(group, scale, symmetric)
            found = made.codes[row, number * 16 : number * 16 + 16].tolist()
            # float32 may decide a tie the other way; more than one step apart would be wrong.
            ties = [c for c, w in zip(codes, group, strict=True) if _is_tie(w / scale + zero)]
            assert found == codes or ties
            assert made.zero is None or made.zero[row, number].item() == zero
            exact = max(map(abs, group)) / 7 if symmetric else (max(group) - min(group)) / 15
            assert exact <= scale * (1 + 1e-6)
            assert scale <= exact * (1 + 2**-7)


def _is_tie(steps: float) -> bool:
    return abs(steps - math.floor(steps) - 0.5) < 1e-5


@BOTH
@given(
    seed=st.integers(0, 2**31),
    size=st.floats(-30, 20),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
    group_size=st.sampled_from([1, 2, 8, 32]),
    scale_dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(
    symmetric: bool,
    seed: int,
    size: float,
    shift: float,
    group_size: int,
    scale_dtype: torch.dtype,
) -> None:
    weight = weights(seed, 4, 64, 10.0**size, shift * 10.0**size)
    made = quantize(weight, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype)
    error = (made.values().double() - weight.double()).abs().unflatten(1, (-1, group_size))
    bound = made.scale.double().unsqueeze(-1) / 2
    # float32 computes codes of up to 16 steps with 24 bits, so a tie may fall a hair further.
    assert bool((error <= bound * (1 + 1e-5)).all())
    assert int(made.codes.min()) >= LOWEST
    assert int(made.codes.max()) <= HIGHEST
    assert bool((made.scale > 0).all())


@BOTH
@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_quantizing_twice_changes_nothing_more(symmetric: bool, seed: int) -> None:
    once = quantize(weights(seed, 4, 64), group_size=32, symmetric=symmetric)
    scale = once.scale.float().unsqueeze(-1)
    zero = 0 if once.zero is None else once.zero.float().unsqueeze(-1)
    again = torch.round(once.values().unflatten(1, (-1, 32)) / scale + zero).flatten(1)
    assert torch.equal(again.to(torch.int8), once.codes)


@BOTH
def test_zeros_stay_zeros(symmetric: bool) -> None:
    weight = weights(3, 4, 64, shift=1.0)
    weight[0] = 0
    weight[1, ::2] = 0
    values = quantize(weight, group_size=32, symmetric=symmetric).values()
    assert bool((values[weight == 0] == 0).all())
    assert bool(torch.isfinite(values).all())


def test_the_largest_weight_of_a_symmetric_group_takes_the_outermost_code() -> None:
    made = quantize(torch.tensor([[0.0, -7.0, 3.0, 1.0]]), group_size=4, symmetric=True)
    assert made.codes.tolist() == [[0, -7, 3, 1]]
    assert made.scale.tolist() == [[1.0]]


def test_a_one_sided_group_uses_all_sixteen_codes_when_asymmetric() -> None:
    made = quantize(torch.arange(16.0).unsqueeze(0), group_size=16, symmetric=False)
    assert made.codes.tolist() == [list(range(-8, 8))]
    assert made.zero is not None
    assert (made.zero.tolist(), made.scale.tolist()) == ([[-8]], [[1.0]])


def test_asymmetric_is_closer_on_a_shifted_group() -> None:
    weight = weights(5, 32, 128, shift=0.05)
    errors = [
        (quantize(weight, group_size=32, symmetric=way).values() - weight).square().mean().item()
        for way in (True, False)
    ]
    assert errors[1] < 0.6 * errors[0]


@BOTH
def test_groups_do_not_know_their_neighbours(symmetric: bool) -> None:
    weight = weights(6, 2, 64)
    before = quantize(weight, group_size=32, symmetric=symmetric).values()
    weight[:, 32:] *= 1000
    after = quantize(weight, group_size=32, symmetric=symmetric).values()
    assert torch.equal(before[:, :32], after[:, :32])


@BOTH
def test_shapes_and_types_are_as_the_docstring_says(symmetric: bool) -> None:
    made = quantize(weights(7, 6, 64).bfloat16(), group_size=32, symmetric=symmetric)
    assert (made.codes.shape, made.codes.dtype) == ((6, 64), torch.int8)
    assert (made.scale.shape, made.scale.dtype) == ((6, 2), torch.bfloat16)
    assert (made.zero is None) is symmetric
    assert isinstance(made, GroupCodes)
    assert made.group_size == 32
    assert made.values().dtype == torch.float32


@BOTH
def test_a_group_that_does_not_divide_the_layer_is_refused(symmetric: bool) -> None:
    with pytest.raises(ValueError, match=r"48 input features .* groups of 32: choose a group size"):
        quantize(weights(8, 4, 48), group_size=32, symmetric=symmetric)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_infinite_or_undefined_weights_are_refused(bad: float) -> None:
    weight = weights(9, 4, 32)
    weight[2, 5] = bad
    with pytest.raises(ValueError, match="infinite or undefined"):
        quantize(weight, group_size=32, symmetric=False)


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"shape \(32,\): leave it in full precision"):
        quantize(torch.zeros(32), group_size=32, symmetric=True)
