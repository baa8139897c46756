"""What was measured can be kept and read again, and what is no record is told in a sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from senryu.benches.client.sample import Failure, Sample
from senryu.benches.figures import QUANTILES
from senryu.benches.plan import Level
from senryu.benches.record import NoRecord, Record, read, sample_value

Make = Callable[..., Sample]
Build = Callable[..., Record]


def test_a_record_is_read_as_it_was_written(record: Build) -> None:
    for each in (record(), record(levels=0), record(failure=Failure(kind="silent", text="no"))):
        again = read(each.text(), "it")
        assert read(again.text(), "it") == again
        assert again.plan == each.plan
        assert [of.level for of in again.levels] == [of.level for of in each.levels]
        assert again.truth == each.truth


def test_beside_the_repeats_stand_their_medians(record: Build) -> None:
    told = json.loads(record(speeds=(10.0, 30.0, 20.0)).text())
    (level, *_) = told["levels"]
    assert level["medians"]["output_tokens_per_second"] == pytest.approx(20.0)
    assert level["medians"]["goodput"] is None
    assert level["usage"] == "true"
    assert told["schema"] == 1


def test_the_line_for_machines_is_one_line_and_a_record(record: Build) -> None:
    line = record().line()
    assert "\n" not in line
    assert read(line, "it").levels[0].repeats
    assert "first_tokens" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is no JSON"),
        ("[]", "it is no record"),
        ('{"bench": "soak"}', "it is no record"),
        ('{"bench": "bench", "schema": 9}', "it has schema 9, and this reads 1"),
        ('{"bench": "bench", "schema": 1}', "missing or wrong"),
    ],
)
def test_what_is_no_record_is_told(text: str, said: str) -> None:
    with pytest.raises(NoRecord, match=said):
        read(text, "it")


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("date",), 7),
        (("levels",), 7),
        (("levels", 0, "level", "kind"), "speed"),
        (("levels", 0, "repeats", 0, "seconds"), "long"),
        (("levels", 0, "repeats", 0, "ttft"), []),
        (("plan", "slo"), None),
    ],
)
def test_what_is_wrong_within_is_told_and_never_believed(
    record: Build, where: tuple[str | int, ...], wrong: Any
) -> None:
    told = json.loads(record().text())
    *way, last = where
    place = told
    for step in way:
        place = place[step]
    place[last] = wrong
    with pytest.raises(NoRecord, match="it is a record with something missing or wrong"):
        read(json.dumps(told), "it")


def test_a_member_that_is_not_known_is_left_out(record: Build) -> None:
    told = json.loads(record().text()) | {"later": 1}
    assert read(json.dumps(told), "it").model == "small"


def test_over_repeats_there_is_a_median_and_what_lies_farthest(record: Build) -> None:
    (level, *_) = record(speeds=(10.0, 30.0, 20.0)).levels
    found = level.over(lambda of: of.output_tokens_per_second)
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((20.0, 10.0, 30.0))
    assert level.over(lambda of: of.goodput) is None


def test_a_ceiling_is_of_its_level(record: Build) -> None:
    known = replace(record(), roofline=())
    assert known.ceiling(Level(kind="concurrency", value=1)) is None


def test_the_points_of_a_curve_are_as_many_as_the_quantiles(record: Build) -> None:
    (level, *_) = record().levels
    assert len(level.first_tokens) == len(QUANTILES)


def test_a_sample_is_a_line_with_its_times(sample: Make) -> None:
    level = Level(kind="rate", value=2.0)
    told = sample_value(sample(due=3.0, sent=4.0), level, 2, gaps=False)
    assert (told["level"], told["repeat"]) == ("rate 2/s", 2)
    assert (told["ttft"], told["pieces"], told["output_tokens"]) == (0.5, 4, 4)
    assert "gaps" not in told
    json.dumps(told)
    assert sample_value(sample(), level, 1, gaps=True)["gaps"] == [0.1, 0.1, 0.1]
    failed = sample(first=None, failure=Failure(kind="refused", text="no", status=529), usage=None)
    told = sample_value(failed, level, 1, gaps=True)
    assert told["ttft"] is None
    assert told["failure"]["status"] == 529
