"""Promises of `quant/gptq.py`: the column algorithm as it is published, never worse than rounding
alone on tokens that it was not fitted to, whatever the moments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.quant.gptq import DAMPING, SHRINK, Moments, best_steps, gptq, gptq_once, lost
from senryu.quant.grids import Grid, Integers, NvFp4, Steps, nearest

GRIDS = pytest.mark.parametrize(
    "grid",
    [
        Integers(symmetric=True, group_size=8),
        Integers(symmetric=False, group_size=16),
        Integers(symmetric=True, group_size=None, width=8),
        NvFp4(),
    ],
    ids=["symmetric", "asymmetric", "rows", "floats"],
)
SMALL = Integers(symmetric=False, group_size=8)


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(read: torch.Tensor) -> torch.Tensor:
    return read.T @ read / len(read)


def seen(seed: int, features: int, tokens: int = 400) -> Moments:
    """Of features of unequal sizes that go together, as in real layers."""
    sizes = torch.exp(made(seed, features))
    mixed = torch.eye(features) + made(seed + 1, features, features) / math.sqrt(features)
    read = made(seed + 2, 2 * tokens, features) * sizes @ mixed
    return Moments(fitted=moments_of(read[:tokens]), judged=moments_of(read[tokens:]))


def slow(
    weight: torch.Tensor, grid: Grid, steps: Steps, moments: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The algorithm in float64, one column at a time, and for each row how near its codes came to
    a tie, in steps. What has not been rounded yet moves to where the squared error of the output is
    least, given what has: minus the error times the column of the inverse over its diagonal."""
    columns = weight.shape[1]
    size, zero = (each.double() for each in steps.of_columns(columns))
    moments = moments.double()
    damped = moments + torch.eye(columns).double() * moments.diagonal().mean() * damping
    work, codes = weight.double().clone(), torch.zeros_like(weight)
    margin = torch.full((len(weight),), math.inf).double()
    left = sorted(range(columns), key=lambda column: -float(moments[column, column]))
    while left:
        inverse = torch.linalg.inv(damped[left][:, left])
        column, rest = left[0], left[1:]
        units = work[:, column] / size[:, column] + zero[:, column]
        codes[:, column] = grid.snap(units.float())
        margin = torch.minimum(margin, from_tie(units, grid))
        value = (codes[:, column].double() - zero[:, column]) * size[:, column]
        error = (work[:, column] - value) / inverse[0, 0]
        for position, other in enumerate(rest, start=1):
            work[:, other] -= error * inverse[0, position]
        left = rest
    return codes, margin


def from_tie(units: torch.Tensor, grid: Grid) -> torch.Tensor:
    """How far these lie from where their code would be another one."""
    distance = torch.full_like(units, math.inf)
    for ahead in (1e-3, 1e-4):
        for sign in (1, -1):
            moved = grid.snap((units + sign * ahead).float()) != grid.snap(units.float())
            distance[moved] = ahead
    return distance


def agree_up_to_ties(found: torch.Tensor, codes: torch.Tensor, margin: torch.Tensor) -> None:
    """float32 may decide a tie the other way, and then the rest of that row is another one."""
    clear = margin > 1e-4
    assert int(clear.sum()) > len(clear) * 2 // 3
    assert torch.equal(found[clear], codes[clear])


@GRIDS
@pytest.mark.parametrize("damping", [0.01, 0.1])
def test_it_gives_the_codes_of_the_slow_algorithm(grid: Grid, damping: float) -> None:
    weight, moments = made(1, 40, 32) / 20, seen(2, 32).fitted
    steps = grid.fit(weight)
    found = gptq_once(weight, grid, steps, moments, damping)
    codes, margin = slow(weight, grid, steps, moments, damping)
    agree_up_to_ties(found.codes, codes, margin)
    assert not torch.equal(found.codes, nearest(weight, grid, steps).codes)


@pytest.mark.parametrize("block", [1, 5, 8, 32, 1000])
def test_the_size_of_a_block_does_not_change_the_result(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.quant.gptq.BLOCK", block)
    weight, moments = made(3, 40, 32), seen(4, 32).fitted
    steps = SMALL.fit(weight)
    found = gptq_once(weight, SMALL, steps, moments, 0.03)
    agree_up_to_ties(found.codes, *slow(weight, SMALL, steps, moments, 0.03))


@given(
    seed=st.integers(0, 2**31),
    tokens=st.sampled_from([1, 3, 20, 100]),
    dead=st.sampled_from([0, 1, 9]),
    size=st.integers(-30, 30),
    symmetric=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_it_is_never_worse_than_rounding_alone_on_tokens_it_was_not_fitted_to(
    seed: int, tokens: int, dead: int, size: int, symmetric: bool
) -> None:
    """Also with fewer tokens than features, and with features that are always zero."""
    read = made(seed, 2 * tokens, 24) @ made(seed + 1, 24, 24) * 2.0 ** (size / 2)
    read[:, :dead] = 0
    moments = Moments(fitted=moments_of(read[:tokens]), judged=moments_of(read[tokens:]))
    weight, grid = made(seed + 2, 6, 24), Integers(symmetric=symmetric, group_size=8)
    steps = best_steps(weight, grid, moments.fitted.diagonal())
    alone = nearest(weight, grid, steps)
    found = gptq(weight, grid, moments)
    assert bool(torch.isfinite(found.values()).all())
    error, least = (lost(weight, each.values(), moments.judged) for each in (found, alone))
    assert error <= least
    assert -8 <= int(found.codes.min()) <= int(found.codes.max()) <= 7


@GRIDS
def test_it_takes_much_off_the_error_where_features_go_together(grid: Grid) -> None:
    weight, moments = made(5, 32, 64), seen(6, 64, tokens=4000)
    alone = nearest(weight, grid)
    found = gptq(weight, grid, moments)
    assert lost(weight, found.values(), moments.judged) < 0.6 * lost(
        weight, alone.values(), moments.judged
    )


def test_the_damping_that_is_taken_is_the_best_on_the_tokens_that_judge() -> None:
    weight, moments = made(7, 16, 32), seen(8, 32, tokens=40)
    steps = best_steps(weight, SMALL, moments.fitted.diagonal())
    errors = [
        lost(
            weight,
            gptq_once(weight, SMALL, steps, moments.fitted, damping).values(),
            moments.judged,
        )
        for damping in DAMPING
    ]
    assert len(set(errors)) == len(DAMPING)
    found = gptq(weight, SMALL, moments)
    assert lost(weight, found.values(), moments.judged) == min(errors)


def test_what_is_lost_is_the_mean_squared_error_of_the_output() -> None:
    weight, values, read = made(1, 5, 8), made(2, 5, 8), made(3, 100, 8)
    plain = (read @ (weight - values).T).square().sum(1).mean().item()
    assert lost(weight, values, moments_of(read)) == pytest.approx(plain, rel=1e-5)


def test_features_that_are_never_seen_are_rounded_to_nearest() -> None:
    weight, moments = made(9, 16, 32), seen(10, 32).fitted
    dead = [3, 4, 30]
    moments[dead] = 0
    moments[:, dead] = 0
    steps = SMALL.fit(weight)
    found = gptq_once(weight, SMALL, steps, moments, 0.01)
    alone = nearest(weight, SMALL, steps)
    assert torch.equal(found.codes[:, dead], alone.codes[:, dead])
    assert not torch.equal(found.codes, alone.codes)


@pytest.mark.parametrize("features", [8, 300])
def test_a_layer_that_never_saw_anything_is_rounded_to_nearest(features: int) -> None:
    """An expert that no token was sent to."""
    weight, nothing = made(11, 4, features), torch.zeros(features, features)
    grid = Integers(symmetric=True, group_size=None)
    found = gptq(weight, grid, Moments(fitted=nothing, judged=nothing))
    assert torch.equal(found.values(), nearest(weight, grid).values())
    once = gptq_once(weight, grid, grid.fit(weight), nothing, 0.01)
    assert torch.equal(once.values(), nearest(weight, grid).values())


@pytest.mark.parametrize("tokens", [1, 5])
def test_fewer_tokens_than_features_are_enough(tokens: int) -> None:
    weight, read = made(12, 16, 64), made(13, tokens, 64)
    moments = moments_of(read)
    found = gptq(weight, SMALL, Moments(fitted=moments, judged=moments))
    alone = nearest(weight, SMALL)
    # So few sums can be kept almost exactly by moving the other weights.
    assert lost(weight, found.values(), moments) < 0.1 * lost(weight, alone.values(), moments)
    error = (found.values() - weight).abs().max()
    assert error < 3 * found.steps.size.max()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_order_of_whole_groups_and_of_what_is_in_them_does_not_matter(seed: int) -> None:
    weight, moments = made(seed, 8, 32), seen(seed + 1, 32)
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randperm(4, generator=generator)
    inside = [torch.randperm(8, generator=generator) for _ in range(4)]
    order = torch.cat([group * 8 + inside[group] for group in groups.tolist()])
    straight = gptq(weight, SMALL, moments)
    turned = gptq(
        weight[:, order],
        SMALL,
        Moments(fitted=moments.fitted[order][:, order], judged=moments.judged[order][:, order]),
    )
    assert torch.equal(turned.steps.scale, straight.steps.scale[:, groups])
    # Sums over features are taken in another order, so another damping may win by a hair.
    errors = [
        lost(weight, values, moments.judged)
        for values in (straight.values(), turned.values()[:, order.argsort()])
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    once = [
        gptq_once(w, SMALL, SMALL.fit(w), m, 0.01).values()
        for w, m in (
            (weight, moments.fitted),
            (weight[:, order], moments.fitted[order][:, order]),
        )
    ]
    assert torch.equal(once[1], once[0][:, order])


@given(seed=st.integers(0, 2**31), power=st.integers(-60, 60))
@settings(max_examples=20, deadline=None)
def test_the_unit_in_which_inputs_are_measured_does_not_matter(seed: int, power: int) -> None:
    weight, moments = made(seed, 8, 32), seen(seed + 1, 32)
    other = Moments(fitted=moments.fitted * 2.0**power, judged=moments.judged * 2.0**power)
    agree = gptq(weight, SMALL, moments), gptq(weight, SMALL, other)
    assert torch.equal(agree[0].steps.scale, agree[1].steps.scale)
    errors = [lost(weight, each.values(), moments.judged) for each in agree]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_rows_do_not_know_each_other() -> None:
    """So layers that read the same input can be rounded together."""
    weight, moments = made(14, 12, 32), seen(15, 32).fitted
    whole = gptq_once(weight, SMALL, SMALL.fit(weight), moments, 0.01).values()
    for rows in (slice(0, 5), slice(5, 12)):
        part = gptq_once(weight[rows], SMALL, SMALL.fit(weight[rows]), moments, 0.01).values()
        assert torch.equal(part, whole[rows])


@GRIDS
def test_scales_are_chosen_before_and_stay_where_they_are(grid: Grid) -> None:
    """Static activation order: nothing has to be permuted when the model runs."""
    weight, moments = made(16, 8, 32), seen(17, 32)
    found = gptq(weight, grid, moments)
    steps = best_steps(weight, grid, moments.fitted.diagonal())
    assert torch.equal(found.steps.scale.float(), steps.scale.float())
    assert found.steps.scale.dtype == steps.scale.dtype
    assert (found.steps.zero is None) == (steps.zero is None)
    if found.steps.zero is not None and steps.zero is not None:
        assert torch.equal(found.steps.zero, steps.zero)


@GRIDS
def test_each_group_gets_the_range_with_the_least_weighted_error(grid: Grid) -> None:
    weight, importance = made(18, 8, 32), torch.exp(made(19, 32))
    found = best_steps(weight, grid, importance)

    def error(steps: Steps) -> torch.Tensor:
        difference = nearest(weight, grid, steps).values() - weight
        parts = (difference.square() * importance).unflatten(1, (steps.scale.shape[1], -1))
        return parts.sum(-1)

    tried = [grid.fit(weight, shrink) for shrink in SHRINK]
    assert torch.equal(error(found), torch.stack([error(each) for each in tried]).amin(0))
    if grid.bits < 5:  # at 8 bits cutting off gains nothing
        assert bool((error(found) < error(tried[0])).any())


def test_without_importance_no_range_is_cut() -> None:
    weight = made(20, 8, 32)
    found = best_steps(weight, SMALL, torch.zeros(32))
    assert torch.equal(found.scale, SMALL.fit(weight).scale)


def test_the_weight_that_was_given_is_left_alone() -> None:
    weight, moments = made(21, 8, 32), seen(22, 32)
    before = weight.clone(), moments.fitted.clone(), moments.judged.clone()
    found = gptq(torch.nn.Parameter(weight), SMALL, moments)
    assert not found.codes.requires_grad
    for now, then in zip((weight, moments.fitted, moments.judged), before, strict=True):
        assert torch.equal(now, then)


def test_weights_in_sixteen_bits_are_taken_as_they_are() -> None:
    weight, moments = made(23, 8, 32).bfloat16(), seen(24, 32)
    assert torch.equal(
        gptq(weight, SMALL, moments).values(), gptq(weight.float(), SMALL, moments).values()
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["fitted", "judged"])
def test_moments_that_are_not_numbers_are_refused(bad: float, which: str) -> None:
    weight, moments = made(25, 8, 32), seen(26, 32)
    getattr(moments, which)[3, 3] = bad
    with pytest.raises(ValueError, match="holds infinite or undefined numbers"):
        gptq(weight, SMALL, moments)


def test_a_weight_that_is_no_number_is_refused() -> None:
    weight = made(27, 8, 32)
    weight[1, 1] = math.nan
    with pytest.raises(ValueError, match="infinite or undefined numbers"):
        gptq(weight, SMALL, seen(28, 32))
