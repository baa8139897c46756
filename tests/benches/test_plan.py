"""What is said on the command line becomes what is measured, or one sentence."""

import pytest

from senryu.benches.figures import Slo
from senryu.benches.plan import Level, Plan, read_levels, read_slo
from senryu.benches.workloads.base import Shape


def plan(**told: object) -> Plan:
    given = {"workload": "chat", "shape": Shape(input=8, output=4), "levels": (), "seed": 1}
    return Plan(**given | {"slo": Slo()} | told)  # type: ignore[arg-type]


def at(width: int) -> Level:
    return Level(kind="concurrency", value=width)


def test_levels_are_each_once_in_the_order_that_was_said() -> None:
    assert [str(each) for each in read_levels("concurrency", "8, 1,8,64")] == [
        "concurrency 8",
        "concurrency 1",
        "concurrency 64",
    ]
    assert [str(each) for each in read_levels("rate", "0.5,2")] == ["rate 0.5/s", "rate 2/s"]


@pytest.mark.parametrize("words", ["", "0", "-1", "x", "1,,2", "1.5", "nan", "inf"])
def test_what_is_no_level_is_a_mistake(words: str) -> None:
    with pytest.raises(ValueError, match="--concurrency"):
        read_levels("concurrency", words)


def test_an_slo_is_read_as_it_is_shown() -> None:
    assert read_slo("ttft=2, tpot=0.1") == Slo(ttft=2.0, tpot=0.1)
    assert read_slo(str(Slo(e2e=30.0))) == Slo(e2e=30.0)
    assert read_slo(None) == Slo()


@pytest.mark.parametrize("words", ["ttft", "itl=1", "ttft=", "ttft=0", "tpot=x"])
def test_what_is_no_slo_is_a_mistake(words: str) -> None:
    with pytest.raises(ValueError, match="--slo"):
        read_slo(words)


@pytest.mark.parametrize(
    ("requests", "width", "turns", "conversations"),
    [
        (None, 1, 1, 16),
        (None, 8, 1, 16),
        (None, 64, 1, 128),
        (4, 8, 1, 8),  # or the level would not be what it says
        (100, 8, 1, 100),
        (None, 1, 12, 2),
        (None, 8, 12, 16),
        (24, 2, 12, 2),
    ],
)
def test_there_are_enough_conversations_for_the_level(
    requests: int | None, width: int, turns: int, conversations: int
) -> None:
    assert plan(requests=requests).conversations(at(width), turns) == conversations


def test_a_rate_and_a_batch_have_as_many_as_were_asked_for() -> None:
    assert plan(requests=40).conversations(Level(kind="rate", value=0.5), 1) == 40
    assert plan().conversations(Level(kind="batch", value=100), 1) == 100


def test_as_many_warm_up_as_are_asked_at_a_time() -> None:
    assert [plan().warm_ups(at(width)) for width in (1, 8, 64)] == [2, 8, 16]
    assert plan(warm_up=0).warm_ups(at(8)) == 0
    assert plan().warm_ups(Level(kind="rate", value=3)) == 2
