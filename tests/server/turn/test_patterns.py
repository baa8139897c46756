"""A pattern is held only where the grammar means what its writer meant."""

import time

import pytest

from senryu.server.turn.patterns import holdable


@pytest.mark.parametrize(
    "pattern",
    [
        "^$",
        "^[a-z]{0,8}$",
        "^[A-Za-z ]{1,30}$",
        r"^\d{4}-\d\d-\d{1,2}$",
        r"^\w+@\w+\.[a-z]{2,}$",
        "^[a-z0-9]+(?:-[a-z0-9]+)*$",
        "^(north|south)$",
        r"^[\w.\-/]+$",
        "^#[0-9a-fA-F]{6}$",
        "^[a-z-]?$",
    ],
)
def test_a_simple_pattern_from_one_end_to_the_other_is_held(pattern: str) -> None:
    assert holdable(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *("a+", "^https?://", r"\.md$", "^a|b$"),  # not anchored
        *("^.*$", '^[^"]*$', "^[A-z]$", "^[ -~]$", r"^\s+$", r"^\\$", r"^\W$", '^"$'),  # quotes
        *("^\n$", "^a$\n", r"^\x22$", "^é$"),
        *("^((a+)+)+$", "^(a|b){0,5000}$", "^(a{2}){3}$", "^a{100}$", "^a**$"),  # costly
        *("^(?!a)b$", "^(?i)a$", r"^(a)\1$", "^a$b$", "^[$", "^(a$", "^[\\d-\\w]$", "^[]$"),
        "^" + "a" * 200 + "$",
    ],
)
def test_any_other_is_not(pattern: str) -> None:
    assert not holdable(pattern)


def test_no_pattern_takes_long_to_look_at() -> None:
    before = time.perf_counter()
    for hostile in (
        "^" + "(a|b)" * 38 + '"$',
        "^(" + "a*" * 90,
        "^" + "[a-z]" * 38 + "(",
        "^(a" * 60,
    ):
        assert not holdable(hostile)
    assert time.perf_counter() - before < 0.1
