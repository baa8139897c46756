"""Two records are compared where they ask the same, and no winner is named by chance."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from senryu.benches.client.sample import Failure
from senryu.benches.comparing import Comparison, NotAlike, Row, compare, table, value
from senryu.benches.figures import Slo
from senryu.benches.record import Record
from senryu.benches.workloads.base import Shape

Build = Callable[..., Record]


def row(found: Comparison, name: str = "output tokens/s") -> Row:
    return next(each for each in found.rows if each.name == name)


def test_faster_is_whose_every_repeat_was_faster(record: Build) -> None:
    found = compare(record(speeds=(10.0, 11.0)), record(speeds=(12.0, 13.0)))
    output = row(found)
    assert output.faster == "B"
    assert output.ratio == pytest.approx(12.5 / 10.5)
    assert (output.low, output.high) == pytest.approx((12 / 11, 1.3))
    assert compare(record(speeds=(12.0, 13.0)), record(speeds=(10.0, 11.0))).rows[0].faster == "A"


def test_of_times_less_is_better(record: Build) -> None:
    """Its first tokens come sooner the faster it is."""
    found = compare(record(speeds=(10.0, 11.0)), record(speeds=(12.0, 13.0)))
    waited = row(found, "TTFT p50")
    assert waited.ratio < 1
    assert waited.faster == "B"


def test_where_repeats_overlap_nobody_is_faster(record: Build) -> None:
    found = compare(record(speeds=(10.0, 12.0)), record(speeds=(11.0, 20.0)))
    assert {each.faster for each in found.rows} == {"cannot be told"}


def test_one_repeat_shows_nothing(record: Build) -> None:
    found = compare(record(speeds=(10.0,)), record(speeds=(20.0,)))
    assert {each.faster for each in found.rows} == {"cannot be told"}
    assert any("one repeat does not show" in warning for warning in found.warnings)


def test_only_levels_of_both_are_compared(record: Build) -> None:
    found = compare(record(levels=1), record(levels=3))
    assert {str(each.level) for each in found.rows} == {"concurrency 1"}
    with pytest.raises(NotAlike, match="no level is in both"):
        compare(record(levels=0), record())


def test_other_workloads_and_other_sizes_are_refused(record: Build) -> None:
    a = record()
    with pytest.raises(NotAlike, match="A asked chat and B long"):
        compare(a, replace(a, plan=replace(a.plan, workload="long")))
    with pytest.raises(NotAlike, match=r"100\+0 tokens in"):
        compare(a, replace(a, plan=replace(a.plan, shape=Shape(input=1, output=4))))


def test_what_else_differs_is_told(record: Build) -> None:
    a = record()
    assert not compare(a, a).warnings
    b = record(
        machine="Another",
        model="large",
        api="openai",
        versions={"senryu": "0.2.0", "vllm": "1", "python": "3.11"},
        interrupted=True,
    )
    told = " ".join(compare(a, b).warnings)
    for word in ("Another machine", "model: A small, B large", "API", "0.2.0", "vllm: A none"):
        assert word in told
    assert "python" not in told
    assert "B was stopped" in told


def test_failures_are_told_for_they_make_a_server_faster(record: Build) -> None:
    failure = Failure(kind="refused", text="Overloaded", status=529)
    found = compare(record(), record(failure=failure))
    assert "B, concurrency 1: 3 of 15 requests failed." in found.warnings


def test_goodput_is_compared_where_both_have_it(record: Build) -> None:
    slo = Slo(ttft=100.0)
    found = compare(record(slo=slo), record(slo=slo))
    assert row(found, "goodput/s").ratio == pytest.approx(1.0)
    assert "goodput/s" not in {each.name for each in compare(record(), record()).rows}


def test_it_is_shown_and_told_to_machines(record: Build) -> None:
    a, b = record(speeds=(10.0, 11.0)), record(speeds=(12.0, 13.0), model="large")
    found = compare(a, b)
    shown = table(a, b, found)
    (line,) = (each for each in shown.splitlines() if each.startswith("concurrency 1 "))
    assert line.split()[4:] == ["10.5", "12.5", "1.19", "1.09", "to", "1.30", "B"]
    assert shown.endswith("Another model: A small, B large.")
    told = json.loads(json.dumps(value(a, b, found)))
    assert told["bench"] == "compare"
    assert told["rows"][0]["faster"] == "B"
    assert told["rows"][0]["level"] == "concurrency 1"
