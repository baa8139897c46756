"""Promises of `quant/mixed.py`: budgets are kept, and no better choice keeps them."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.quant.errors import QuantizeError
from senryu.quant.mixed import Choice, choose
from senryu.quant.sensitivity import Sensitivity

SMALLEST = 10_000
"""Bytes of the folders below, with every unit quantized."""


def unit(number: int, kl: float, saved: int) -> Sensitivity:
    return Sensitivity(
        name=f"model.layers.{number}.self_attn qkv",
        layers=tuple(f"model.layers.{number}.self_attn.{each}_proj" for each in "qkv"),
        kl=kl,
        saved_bytes=saved,
    )


def made(*told: tuple[float, int]) -> tuple[Sensitivity, ...]:
    return tuple(unit(number, kl, saved) for number, (kl, saved) in enumerate(told))


def parent(units: tuple[Sensitivity, ...]) -> int:
    return SMALLEST + sum(each.saved_bytes for each in units)


def chosen(
    units: tuple[Sensitivity, ...],
    size: float | None = None,
    kl: float | None = None,
    kl_all: float | None = None,
) -> Choice:
    return choose(
        units,
        size_budget=size,
        kl_budget=kl,
        bytes_parent=parent(units),
        bytes_smallest=SMALLEST,
        kl_all=kl_all,
    )


def numbers(choice: Choice) -> list[int]:
    return [int(name.split(".")[2]) for name in choice.units]


UNITS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(1e-9, 10.0)),
        st.one_of(st.sampled_from([576, 1728, 3456]), st.integers(0, 10**9)),
    ),
    min_size=1,
    max_size=8,
).map(lambda told: made(*told))
PARTS = st.floats(0.001, 1.0)


def every(units: tuple[Sensitivity, ...]) -> list[tuple[int, float]]:
    """Bytes and KL of every choice there is."""
    found = []
    for taken in itertools.product([False, True], repeat=len(units)):
        told = list(zip(units, taken, strict=True))
        size = SMALLEST + sum(each.saved_bytes for each, stays in told if stays)
        found.append((size, sum(each.kl for each, stays in told if not stays)))
    return found


def same(choice: Choice, units: tuple[Sensitivity, ...]) -> None:
    """What is said of the choice is what its units add up to."""
    stay = [each for each in units if each.name in choice.units]
    assert choice.units == tuple(each.name for each in stay)
    assert choice.kept == tuple(name for each in stay for name in each.layers)
    assert choice.size == SMALLEST + sum(each.saved_bytes for each in stay)
    left = sum(each.kl for each in units if each not in stay)
    assert choice.kl == pytest.approx(left, rel=1e-9, abs=1e-12)


@given(units=UNITS, part=PARTS)
@settings(max_examples=60, deadline=None)
def test_a_size_budget_is_never_exceeded(units: tuple[Sensitivity, ...], part: float) -> None:
    try:
        choice = chosen(units, size=part)
    except QuantizeError:
        assert int(part * parent(units)) < SMALLEST
        return
    same(choice, units)
    assert choice.size <= part * parent(units)


@given(units=UNITS, parts=st.tuples(PARTS, PARTS))
@settings(max_examples=60, deadline=None)
def test_more_room_never_predicts_more_loss(
    units: tuple[Sensitivity, ...], parts: tuple[float, float]
) -> None:
    least = SMALLEST / parent(units)
    small, large = sorted(min(1.0, least + (1 - least) * each + 1e-9) for each in parts)
    assert chosen(units, size=large).kl <= chosen(units, size=small).kl


@given(units=UNITS, budget=st.floats(0.0, 20.0), kl_all=st.one_of(st.none(), st.floats(0.0, 40.0)))
@settings(max_examples=60, deadline=None)
def test_a_kl_budget_is_never_exceeded(
    units: tuple[Sensitivity, ...], budget: float, kl_all: float | None
) -> None:
    assert chosen(units, kl=budget, kl_all=kl_all).kl <= budget


@given(units=UNITS, budgets=st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 20.0)))
@settings(max_examples=40, deadline=None)
def test_a_smaller_kl_never_takes_fewer_bytes(
    units: tuple[Sensitivity, ...], budgets: tuple[float, float]
) -> None:
    tight, loose = (chosen(units, kl=each) for each in sorted(budgets))
    fineness = parent(units) / 4096
    assert tight.size >= loose.size - fineness


@given(
    told=st.lists(
        st.tuples(st.floats(0.0, 1.0), st.sampled_from([5, 3, 16, 8])), min_size=1, max_size=7
    ),
    part=PARTS,
    budget=st.floats(0.0, 4.0),
)
@settings(max_examples=80, deadline=None)
def test_no_other_choice_is_better(
    told: list[tuple[float, int]], part: float, budget: float
) -> None:
    """Against all choices there are."""
    units = made(*((kl, 960 * 1024 * size) for kl, size in told))
    least = SMALLEST / parent(units)
    part = least + (1 - least) * part
    room = int(part * parent(units))
    if room >= SMALLEST:
        best = min(kl for size, kl in every(units) if size <= room)
        assert chosen(units, size=part).kl == pytest.approx(best, abs=1e-9)
    fewest = min(size for size, kl in every(units) if kl <= budget + 1e-9)
    most = min(size for size, kl in every(units) if kl <= max(0.0, budget - 1e-9))
    assert fewest <= chosen(units, kl=budget).size <= most


def test_the_most_loss_for_each_byte_stays() -> None:
    units = made((0.1, 1000), (0.5, 4000), (0.3, 1000), (0.2, 1000))
    choice = chosen(units, size=(SMALLEST + 2000) / parent(units))
    assert numbers(choice) == [2, 3]
    assert choice.kl == pytest.approx(0.6)
    assert numbers(chosen(units, size=(SMALLEST + 6000) / parent(units))) == [1, 2, 3]


def test_a_unit_that_loses_nothing_does_not_stay() -> None:
    units = made((0.0, 1000), (0.5, 1000))
    assert numbers(chosen(units, size=1.0)) == [1]
    assert numbers(chosen(units, kl=0.0)) == [1]


def test_as_few_bytes_as_keep_the_kl() -> None:
    units = made((0.1, 1000), (0.5, 4000), (0.3, 1000), (0.2, 1000))
    assert numbers(chosen(units, kl=2.0)) == []
    assert numbers(chosen(units, kl=0.81)) == [2]
    assert numbers(chosen(units, kl=0.61)) == [2, 3]
    assert numbers(chosen(units, kl=0.0)) == [0, 1, 2, 3]


def test_losses_are_scaled_to_what_all_lose_together() -> None:
    units = made((0.1, 1000), (0.3, 1000))
    choice = chosen(units, kl=0.2, kl_all=0.8)
    assert numbers(choice) == [1]
    assert choice.kl == pytest.approx(0.2)
    assert chosen(units, kl=0.8, kl_all=0.8).kl == 0.8
    assert numbers(chosen(units, kl=0.2, kl_all=0.2)) == []


def test_without_a_budget_nothing_stays() -> None:
    choice = chosen(made((0.5, 1000), (0.25, 1000)))
    assert choice == Choice(units=(), kept=(), size=SMALLEST, kl=0.75)


def test_without_units_a_budget_is_kept_where_it_can_be() -> None:
    nothing = {"size_budget": 0.5, "kl_budget": 0.1, "bytes_parent": 20, "kl_all": None}
    assert choose((), bytes_smallest=10, **nothing).kept == ()  # type: ignore[arg-type]


def test_both_budgets_are_kept_with_the_fewest_bytes() -> None:
    units = made((0.1, 1000), (0.5, 4000), (0.3, 1000), (0.2, 1000))
    choice = chosen(units, size=0.9, kl=0.61)
    assert numbers(choice) == [2, 3]


def test_a_folder_that_cannot_be_so_small_says_how_small_it_can_be() -> None:
    units = made((0.1, 5000), (0.5, 5000))
    with pytest.raises(QuantizeError) as raised:
        chosen(units, size=0.4)
    assert str(raised.value) == (
        "With every layer quantized the folder takes 0.501 of its 16-bit size, more than the size "
        "budget of 0.4: give 0.501 or more."
    )
    assert chosen(units, size=0.501).kept == ()


@given(units=UNITS, part=PARTS, budget=st.floats(0.0, 10.0))
@settings(max_examples=80, deadline=None)
def test_who_follows_the_advice_of_a_refusal_is_not_refused_again(
    units: tuple[Sensitivity, ...], part: float, budget: float
) -> None:
    try:
        chosen(units, size=part, kl=budget)
    except QuantizeError as problem:
        told = str(problem)
        assert "\n" not in told
        assert told.endswith(".")
        advice = re.search(r"give a size budget of (\S+), or a KL budget of (\S+)\.$", told)
        if advice is None:
            least = re.search(r"give (\S+) or more\.$", told)
            assert least
            chosen(units, size=float(least[1]))
            return
        size, kl = (float(each) for each in advice.groups())
        assert chosen(units, size=size, kl=budget).kl <= budget
        assert chosen(units, size=part, kl=kl).size <= part * parent(units)


@pytest.mark.parametrize("bad", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_a_size_budget_is_a_part_of_the_whole(bad: float) -> None:
    with pytest.raises(QuantizeError, match="above 0 and at most 1, not"):
        chosen(made((0.1, 1000)), size=bad)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_a_kl_budget_is_a_number_of_nats(bad: float) -> None:
    with pytest.raises(QuantizeError, match="a number of nats, 0 or more, not"):
        chosen(made((0.1, 1000)), kl=bad)
