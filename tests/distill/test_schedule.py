"""The learning rate rises, stays, and falls to a tenth."""

import itertools

import pytest

from senryu.distill.schedule import factor


def test_it_rises_stays_and_falls() -> None:
    rates = [factor(step, 100, warmup=0.1, decay=0.4) for step in range(100)]
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert set(rates[10:61]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[60:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.03)


def test_without_warm_up_and_decay_it_is_level() -> None:
    assert {factor(step, 7, warmup=0.0, decay=0.0) for step in range(7)} == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_short_run_never_stands_still(steps: int) -> None:
    assert all(0 < factor(step, steps, warmup=1.0, decay=1.0) <= 1 for step in range(steps))
