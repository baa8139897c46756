"""Promises of `quant/grids.py` for integers: every weight comes back within half a step of its
group's grid."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.quant.grids import Codes, Integers, Steps, grouped, nearest

BOTH = pytest.mark.parametrize("symmetric", [True, False])
SCALES = (torch.bfloat16, torch.float16, torch.float32)


def weights(
    seed: int, rows: int, columns: int, size: float = 0.05, shift: float = 0.0
) -> torch.Tensor:
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return made * size + shift


def grid(symmetric: bool, group_size: int | None = 32, **told: object) -> Integers:
    return Integers(symmetric=symmetric, group_size=group_size, **told)  # type: ignore[arg-type]


def reference(group: list[float], scale: float, symmetric: bool) -> tuple[list[int], int]:
    """Codes and zero point of one group in plain Python floats, which are float64."""
    zero = 0
    if not symmetric:
        zero = min(7, max(-8, round(-8 - min(0.0, *group) / scale)))
    return [min(7, max(-8, round(w / scale + zero))) for w in group], zero


@BOTH
def test_codes_agree_with_plain_python_in_float64(symmetric: bool) -> None:
    weight = weights(1, 6, 64)
    made = nearest(weight, grid(symmetric, 16))
    for row in range(6):
        for number in range(4):
            group = weight[row, number * 16 : number * 16 + 16].tolist()
            scale = made.steps.scale[row, number].item()
            codes, zero = reference(group, scale, symmetric)
            found = made.codes[row, number * 16 : number * 16 + 16].tolist()
            # float32 may decide a tie the other way.
            assert all(
                ours == theirs or is_tie(w / scale + zero)
                for ours, theirs, w in zip(found, codes, group, strict=True)
            )
            assert made.steps.zero is None or made.steps.zero[row, number].item() == zero
            exact = max(map(abs, group)) / 7 if symmetric else (max(group) - min(group)) / 15
            assert exact <= scale * (1 + 1e-6)
            assert scale <= exact * (1 + 2**-7)


def is_tie(steps: float) -> bool:
    return abs(steps - math.floor(steps) - 0.5) < 1e-5


@BOTH
@given(
    seed=st.integers(0, 2**31),
    size=st.floats(-37, 36),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
    width=st.sampled_from([4, 8]),
    group_size=st.sampled_from([1, 2, 8, 32, None]),
    scale_type=st.sampled_from([torch.bfloat16, torch.float32]),
)
@settings(max_examples=80, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(
    symmetric: bool,
    seed: int,
    size: float,
    shift: float,
    width: int,
    group_size: int | None,
    scale_type: torch.dtype,
) -> None:
    weight = weights(seed, 4, 64, 10.0**size, shift * 10.0**size)
    made = nearest(weight, grid(symmetric, group_size, width=width, scale_type=scale_type))
    scale = made.steps.scale
    error = (made.values().double() - weight.double()).abs().unflatten(1, (scale.shape[1], -1))
    # float32 computes codes of up to 256 steps with 24 bits, so a tie may fall a hair further.
    assert bool((error <= scale.double().unsqueeze(-1) / 2 * (1 + 1e-4)).all())
    in_range(made, width)
    assert bool((scale >= torch.finfo(scale_type).smallest_normal).all())


def in_range(made: Codes, width: int) -> None:
    """Whole numbers of `width` bits, the zero point among them."""
    half = 1 << (width - 1)
    for numbers in (made.codes, made.steps.zero):
        if numbers is not None:
            assert torch.equal(numbers, numbers.float().round())
            assert -half <= int(numbers.min()) <= int(numbers.max()) < half


@BOTH
@given(
    group=st.lists(
        st.floats(-(2.0**120), 2.0**120, width=32),
        min_size=8,
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_groups_of_very_unequal_weights_keep_the_promise(
    symmetric: bool, group: list[float]
) -> None:
    weight = torch.tensor([group])
    made = nearest(weight, grid(symmetric, 8))
    error = (made.values().double() - weight.double()).abs()
    assert bool((error <= made.steps.scale.double() / 2 * (1 + 1e-4)).all())
    assert bool((made.values()[weight == 0] == 0).all())
    in_range(made, 4)


@BOTH
@given(seed=st.integers(0, 2**31), shrink=st.sampled_from([1.0, 0.9, 0.7]))
@settings(max_examples=25, deadline=None)
def test_quantizing_twice_changes_nothing_more(symmetric: bool, seed: int, shrink: float) -> None:
    weight, whole = weights(seed, 4, 64), grid(symmetric)
    once = nearest(weight, whole, whole.fit(weight, shrink))
    again = nearest(once.values(), whole, once.steps)
    assert torch.equal(again.codes, once.codes)


@BOTH
@pytest.mark.parametrize("shrink", [1.0, 0.8])
def test_zeros_stay_zeros(symmetric: bool, shrink: float) -> None:
    weight = weights(3, 4, 64, shift=1.0)
    weight[0] = 0
    weight[1, ::2] = 0
    weight[2] *= -1
    whole = grid(symmetric)
    values = nearest(weight, whole, whole.fit(weight, shrink)).values()
    assert bool((values[weight == 0] == 0).all())
    assert bool(torch.isfinite(values).all())


@BOTH
def test_a_shrunk_range_cuts_off_only_what_lies_outside(symmetric: bool) -> None:
    weight, whole = weights(4, 16, 64), grid(symmetric, scale_type=torch.float32)
    full, shrunk = whole.fit(weight), whole.fit(weight, 0.8)
    assert torch.allclose(shrunk.scale, full.scale * 0.8, rtol=1e-6)
    made = nearest(weight, whole, shrunk)
    size, zero = shrunk.of_columns(64)
    low, high = (-8 - zero) * size, (7 - zero) * size
    inside = (weight >= low) & (weight <= high)
    assert 0 < int((~inside).sum()) < weight.numel() // 4
    error = (made.values() - weight).abs()
    assert bool((error[inside] <= size[inside] / 2 * (1 + 1e-5)).all())
    assert torch.allclose(made.values()[~inside], weight.clamp(low, high)[~inside], rtol=1e-6)
    in_range(made, 4)


def test_the_largest_weight_of_a_symmetric_group_takes_the_outermost_code() -> None:
    made = nearest(torch.tensor([[0.0, -7.0, 3.0, 1.0]]), grid(True, 4))
    assert made.codes.tolist() == [[0, -7, 3, 1]]
    assert made.steps.scale.tolist() == [[1.0]]


def test_a_one_sided_group_uses_all_sixteen_codes_when_asymmetric() -> None:
    made = nearest(torch.arange(16.0).unsqueeze(0), grid(False, 16))
    assert made.codes.tolist() == [list(range(-8, 8))]
    assert made.steps.zero is not None
    assert (made.steps.zero.tolist(), made.steps.scale.tolist()) == ([[-8]], [[1.0]])


def test_asymmetric_is_closer_on_a_shifted_group() -> None:
    weight = weights(5, 32, 128, shift=0.05)
    errors = [
        (nearest(weight, grid(way)).values() - weight).square().mean().item()
        for way in (True, False)
    ]
    assert errors[1] < 0.6 * errors[0]


@BOTH
def test_eight_bits_are_sixteen_times_as_fine_as_four(symmetric: bool) -> None:
    weight = weights(5, 32, 128)
    four, eight = (
        (nearest(weight, grid(symmetric, width=width)).values() - weight).abs().mean().item()
        for width in (4, 8)
    )
    assert eight < four / 14


@BOTH
def test_groups_do_not_know_their_neighbours(symmetric: bool) -> None:
    weight = weights(6, 2, 64)
    before = nearest(weight, grid(symmetric)).values()
    weight[:, 32:] *= 1000
    after = nearest(weight, grid(symmetric)).values()
    assert torch.equal(before[:, :32], after[:, :32])


@BOTH
def test_shapes_and_types_are_as_the_docstrings_say(symmetric: bool) -> None:
    weight = torch.nn.Parameter(weights(7, 6, 64).bfloat16())
    made = nearest(weight, grid(symmetric))
    assert (made.codes.shape, made.codes.dtype) == ((6, 64), torch.float32)
    assert (made.steps.scale.shape, made.steps.scale.dtype) == ((6, 2), torch.bfloat16)
    assert (made.steps.zero is None) is symmetric
    assert made.steps.zero is None or made.steps.zero.dtype == torch.int8
    assert made.values().dtype == torch.float32
    assert not made.values().requires_grad


@BOTH
def test_without_a_group_size_a_row_has_one_scale(symmetric: bool) -> None:
    weight = weights(8, 3, 40)
    alone, named = (nearest(weight, grid(symmetric, size)) for size in (None, 40))
    assert alone.steps.scale.shape == (3, 1)
    assert torch.equal(alone.values(), named.values())


@pytest.mark.parametrize("kind", SCALES)
def test_scales_are_stored_in_the_type_that_was_asked_for(kind: torch.dtype) -> None:
    made = nearest(weights(9, 4, 64), grid(True, scale_type=kind))
    assert made.steps.scale.dtype == kind
    error = (made.values() - weights(9, 4, 64)).abs().unflatten(1, (2, 32))
    assert bool((error <= made.steps.scale.float().unsqueeze(-1) / 2 * (1 + 1e-5)).all())


@pytest.mark.parametrize(
    ("symmetric", "group_size", "width", "bits"),
    [
        (True, 32, 4, 4.5),
        (False, 32, 4, 4.625),
        (True, 128, 4, 4.125),
        (False, 128, 8, 8.1875),
        (True, None, 8, 8.0),
    ],
)
def test_bits_count_the_share_of_scales_and_zero_points(
    symmetric: bool, group_size: int | None, width: int, bits: float
) -> None:
    assert grid(symmetric, group_size, width=width).bits == bits


def test_a_scale_for_the_whole_matrix_divides_the_others() -> None:
    steps = Steps(scale=torch.tensor([[2.0, 8.0]]), global_scale=torch.tensor([4.0]))
    made = Codes(codes=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), steps=steps)
    assert made.values().tolist() == [[0.5, 1.0, 6.0, 8.0]]


@BOTH
@pytest.mark.parametrize("group_size", [32, 0, -1])
def test_a_group_that_does_not_divide_the_layer_is_refused(
    symmetric: bool, group_size: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"48 input features .* groups of {group_size}: choose a group size"
    ):
        nearest(weights(8, 4, 48), grid(symmetric, group_size))


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_infinite_or_undefined_weights_are_refused(symmetric: bool, bad: float) -> None:
    weight = weights(9, 4, 32)
    weight[2, 5] = bad
    with pytest.raises(ValueError, match=r"infinite or undefined .* get it again\.$"):
        nearest(weight, grid(symmetric))


@pytest.mark.parametrize("shape", [(32,), (2, 2, 32)])
def test_only_matrices_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(.*\): leave it in full precision\.$"):
        nearest(torch.zeros(shape), grid(True))


def test_grouping_keeps_every_weight_in_its_place() -> None:
    weight = weights(10, 3, 64).bfloat16()
    groups = grouped(weight, 16)
    assert (groups.shape, groups.dtype) == ((3, 4, 16), torch.float32)
    assert torch.equal(groups.flatten(1), weight.float())
