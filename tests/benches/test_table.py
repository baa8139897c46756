"""On a terminal stands what was measured, and what one has to know of it."""

from collections.abc import Callable

import pytest

from senryu.benches.client.sample import Failure
from senryu.benches.figures import Slo
from senryu.benches.plan import Level
from senryu.benches.record import Ceiling, Record
from senryu.benches.table import rate_of, seconds_of, table

Build = Callable[..., Record]
OVERLOADED = Failure(kind="refused", text="Overloaded", status=529, retry_after=3.0)


def cells(shown: str, level: str, place: int = 0) -> list[str]:
    lines = [line for line in shown.splitlines() if line.startswith(level)]
    return lines[place].removeprefix(level).split()


def test_a_level_is_a_line_with_the_median_and_the_bounds_of_its_repeats(record: Build) -> None:
    shown = table(record(speeds=(10.0, 14.0, 12.0)))
    assert cells(shown, "concurrency 1")[:5] == ["12", "12.0", "10.0", "to", "14.0"]
    assert cells(shown, "concurrency 8")[:5] == ["12", "24.0", "20.0", "to", "28.0"]
    assert cells(shown, "concurrency 1", 1)[:2] == ["333", "ms"]


def test_where_and_what_stands_above(record: Build) -> None:
    shown = table(record())
    assert "chat: 100 tokens in, at most 4 out, each level 3 times, seed 7" in shown
    assert "messages at http://127.0.0.1:8765, model small" in shown
    assert "A machine, 2 cores; senryu 0.1.0, python 3.11" in shown
    assert "the client's" in table(record(here=False))


def test_it_fits_a_terminal(record: Build) -> None:
    shown = table(record(levels=3, slo=Slo(ttft=1.0), failure=OVERLOADED, model="m"))
    assert max(map(len, shown.split("usage:")[0].splitlines())) <= 110


def test_failures_are_told_with_what_the_server_said(record: Build) -> None:
    shown = table(record(failure=OVERLOADED))
    assert cells(shown, "concurrency 1")[-1] == "3"
    assert "concurrency 1: 3 of 15 refused 529, such as: Overloaded; asked to wait 3 s" in shown
    assert "failed" not in table(record())


def test_whether_usage_is_true_is_told_with_what_was_asked(record: Build) -> None:
    assert "usage: true (output tokens >= pieces that came: 24 of 24; " in table(record())
    assert "usage: not told" in table(record(levels=0))


def test_goodput_is_told_where_there_is_an_slo(record: Build) -> None:
    shown = table(record(slo=Slo(ttft=100.0)))
    assert cells(shown, "concurrency 1")[-1] == "100%"
    assert "SLO: ttft=100 (seconds)" in shown
    assert "goodput" not in table(record())


def test_percent_of_the_roofline_is_told_where_it_is_known(record: Build) -> None:
    ceiling = Ceiling(level=Level(kind="concurrency", value=1.0), tokens_per_second=44.0)
    shown = table(record(roofline=(ceiling,)))
    assert cells(shown, "concurrency 1")[-1] == "25%"
    assert cells(shown, "concurrency 8")[-1] == "–"  # noqa: RUF001 - a dash


def test_what_has_to_be_known_stands_below(record: Build) -> None:
    assert table(record(notes=("It was hot.",))).endswith("It was hot.")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")]
)
def test_three_digits_are_told(value: float, shown: str) -> None:
    assert rate_of(value) == shown
    assert rate_of(12345.6) == "12,346"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0001234, "0.12 ms"), (0.0123, "12.3 ms"), (1.5, "1.50 s"), (150.2, "150 s")],
)
def test_times_have_the_unit_that_suits(value: float, shown: str) -> None:
    assert seconds_of(value) == shown
