"""The figures mean what their definitions say; of what a server does not tell nothing is made."""

from typing import Any

import pytest

from senryu.benches.agentic.figures import (
    Figures,
    Measured,
    Share,
    figures,
    hit_share,
    turn_figures,
    with_probes,
)
from senryu.benches.agentic.report import (
    DASH,
    Column,
    Restart,
    progress,
    record,
    restart_table,
    table,
    turn_table,
)
from senryu.benches.agentic.stream import Attempt, Counters, Event

TOOLS = frozenset({"Read"})


def asked(
    prompt: int,
    read: int | None = None,
    *,
    ending: Any = "whole",
    token_at: float | None = 2.0,
    engine: tuple[int, int] | None = None,
    started_read: int | None = None,
) -> Attempt:
    """An attempt whose server says that it found `read` of `prompt` tokens in a cache."""
    told = {"input_tokens": prompt - (read or 0), "output_tokens": 1}
    late = dict(told)
    if read is not None:
        late["cache_read_input_tokens"] = read
        told = dict(late) if started_read is None else {"input_tokens": prompt}
    found = [("message_start", 1.0, {"message": {"usage": told}})]
    if token_at is not None:
        found.append(("content_block_delta", token_at, {"index": 0, "delta": {"text": "a"}}))
    if ending == "whole":
        found.append(("message_delta", 3.0, {"usage": late, "delta": {}}))
    return Attempt(
        sent=0.0,
        left=4.0,
        ending=ending,
        events=tuple(Event(at=at, type=kind, data=data) for kind, at, data in found),
        counters=None if engine is None else Counters(asked=engine[0], had=engine[1]),
    )


def turn(number: int, *attempts: Attempt, kind: str = "grown", **of: Any) -> Measured:
    about: dict[str, Any] = {"counted": None, "shared": None} | of
    return Measured(number=number, kind=kind, attempts=attempts, **about)


def of(*turns: Measured) -> Figures:
    return figures(turns, TOOLS)


def test_new_is_what_a_turn_added_and_computed_what_no_cache_held() -> None:
    found = of(
        turn(1, asked(1000, 0), kind="first"), turn(2, asked(1400, 992)), turn(3, asked(1800, 1376))
    )
    assert [each.new for each in found.turns] == [1000, 400, 400]
    assert [each.computed for each in found.turns] == [1000, 408, 424]
    assert (found.new, found.computed, found.read_again) == (1800, 1832, 32)
    assert found.computed_over_new == pytest.approx(1832 / 1800)
    assert found.hit_rate == pytest.approx((992 + 1376) / 4200)
    assert found.sent == 4200


def test_a_server_that_reads_everything_again_has_a_large_ratio() -> None:
    found = of(turn(1, asked(1000, 0), kind="first"), turn(2, asked(1400, 0)))
    assert found.computed_over_new == pytest.approx(2400 / 1400)
    assert found.read_again == 1000


def test_after_a_compaction_what_is_shared_is_tools_and_system_prompt() -> None:
    turns = [turn(1, asked(1000, 0), kind="first"), turn(2, asked(5000, 992))]
    compacted = turn(3, asked(1300, 640), kind="compacted", shared=650)
    found = of(*turns, compacted, turn(4, asked(1700, 1280)))
    assert [each.new for each in found.turns] == [1000, 4000, 650, 400]


def test_a_compacted_turn_of_a_server_that_cannot_count_stays_out() -> None:
    found = of(turn(1, asked(1000, 0), kind="first"), turn(2, asked(1300, 640), kind="compacted"))
    assert found.turns[1].new is None
    assert (found.new, found.computed) == (1000, 1000)


def test_a_dropped_attempt_and_the_one_after_it_both_count() -> None:
    dropped = turn(2, asked(1400, 992, ending="dropped"), asked(1400, 1376), kind="dropped")
    (_, second) = turn_figures([turn(1, asked(1000, 0), kind="first"), dropped])
    assert (second.new, second.computed) == (400, 408 + 24)


def test_a_prompt_that_was_left_half_read_counts_with_what_was_not_read_again() -> None:
    left = asked(1400, 992, ending="timed out", token_at=None)
    reused = turn(2, left, asked(1400, 1184), kind="timed out")
    twice = turn(2, left, asked(1400, 992), kind="timed out")
    first = turn(1, asked(1000, 0), kind="first")
    assert turn_figures([first, reused])[1].computed == 408
    assert turn_figures([first, twice])[1].computed == 408


@pytest.mark.parametrize(("read", "computed"), [(992, 408), (1376, 400)])
def test_one_that_told_nothing_has_computed_what_is_missing_to_the_new(
    read: int, computed: int
) -> None:
    """The second case would otherwise be a server that computes less than there is to compute."""
    silent = Attempt(sent=0.0, left=1.0, ending="timed out", events=())
    second = turn(2, silent, asked(1400, read), kind="timed out")
    found = turn_figures([turn(1, asked(1000, 0), kind="first"), second])
    assert found[1].computed == computed


def test_a_dropped_attempt_that_told_nothing_leaves_the_turn_unknown() -> None:
    second = turn(2, asked(1400, ending="dropped"), asked(1400, 1376), kind="dropped")
    found = of(turn(1, asked(1000, 0), kind="first"), second)
    assert found.turns[1].computed is None
    assert (found.new, found.computed) == (1000, 1000)


def test_without_cache_numbers_the_engines_counters_are_taken() -> None:
    found = of(
        turn(1, asked(1000, engine=(1000, 0)), kind="first"),
        turn(2, asked(1400, engine=(1400, 992))),
    )
    assert (found.computed, found.new) == (1408, 1400)
    assert found.counters_same is None  # there is nothing to compare them with


def test_without_both_nothing_is_inferred() -> None:
    found = of(turn(1, asked(1000), kind="first"), turn(2, asked(1400)))
    assert found.turns[1].new == 400
    assert (found.computed, found.computed_over_new, found.hit_rate) == (None, None, None)
    shown = table([Column(name="one", version="", model="m", figures=found)])
    unknown = [line.split()[:-1] for line in shown.splitlines() if line.endswith(DASH)]
    assert ["computed", "over", "new"] in unknown
    assert ["hit", "rate"] in unknown
    assert " 0.0%" not in shown


def test_what_ought_to_be_equal_is_compared_answer_by_answer() -> None:
    found = of(
        turn(1, asked(1000, 0, engine=(1000, 0)), kind="first", counted=1000),
        turn(2, asked(1400, 992, engine=(1400, 960), started_read=0), counted=1399),
    )
    assert found.usage_same == Share(met=1, of=2)
    assert found.count_same == Share(met=1, of=2)
    assert found.counters_same == Share(met=1, of=2)


def test_times_are_of_the_attempts_that_ended_by_themselves() -> None:
    slow = asked(1400, 992, ending="dropped", token_at=3.5)
    found = of(
        turn(1, asked(1000, 0, token_at=2.5), kind="first"),
        turn(2, slow, asked(1400, 1376, token_at=1.5), kind="dropped"),
        turn(3, asked(1800, 1376, token_at=1.25)),
    )
    assert found.first_token_cold_s == 2.5
    assert (found.first_token_warm_s, found.first_token_warm_longest_s) == (1.25, 1.25)
    assert (found.start_s, found.start_longest_s) == (1.0, 1.0)
    assert found.requests == 4
    assert found.silence_s == 2.5  # the dropped one heard nothing for so long


def test_how_much_is_shared_when_only_the_billing_line_differs() -> None:
    repeated = asked(1000, 992)
    assert hit_share(repeated) == pytest.approx(0.992)
    assert hit_share(asked(1000)) is None
    found = of(turn(1, asked(1000, 0), kind="first"))
    probed = with_probes(found, first=asked(20, token_at=1.5), repeated=repeated)
    assert probed.billing_shared == pytest.approx(0.992)
    assert probed.first_request_s == 1.5
    assert with_probes(found, first=None, repeated=None) == found


def columns() -> list[Column]:
    first = turn(1, asked(1000, 0), kind="first", cold_seconds=2.0)
    good = of(first, turn(2, asked(1400, 992)))
    bad = of(first, turn(2, asked(1400, 0)))
    return [
        Column(name="ours", version="1", model="m", figures=good),
        Column(name="other", version="2", model="m", figures=bad, failure="stopped after 2 turns"),
    ]


def test_two_servers_stand_beside_each_other_with_their_ratio() -> None:
    shown = table(columns())
    (line,) = [line for line in shown.splitlines() if line.startswith("computed over new")]
    assert line.split()[-3:] == ["1.006", "1.714", "1.70"]
    assert shown.endswith("other: stopped after 2 turns")
    assert "ratio" not in table(columns()[:1])


def test_turns_stand_beside_each_other_and_one_that_failed_ends_earlier() -> None:
    ours = columns()[0]
    short = Column(name="other", version="2", model="m", figures=of(turn(1, asked(1000, 0))))
    lines = turn_table([ours, short]).splitlines()
    assert lines[2].split()[:7] == ["1", "first", "1,000", "1,000", "1,000", "2.00", "s"]
    assert len(lines[3].split()) == 8
    assert "grown" in progress("ours", turn_figures([turn(1, asked(1000, 0))])[0])
    assert turn_table([Column(name="none", version="", model="", failure="why")])


def test_a_restart_is_a_ratio() -> None:
    restart = Restart(cold_s=4.0, again_s=1.0, shared=0.9)
    shown = restart_table([Column(name="ours", version="", model="m", restart=restart)])
    assert shown.splitlines()[1].split() == ["ours", "4.00", "s", "1.00", "s", "0.25", "90.0%"]
    unknown = Restart(cold_s=None, again_s=1.0, shared=None)
    told = Column(name="other", version="", model="m", restart=unknown, failure="why")
    assert DASH in restart_table([told])


def test_the_record_leaves_out_what_was_not_measured() -> None:
    ours, other = record(columns(), seed=7)["servers"]
    assert "restart" not in ours
    assert ours["figures"]["computed_over_new"] == pytest.approx(1408 / 1400)
    assert other["failure"] == "stopped after 2 turns"
    restarted = Column(
        name="a", version="", model="", restart=Restart(cold_s=4.0, again_s=1.0, shared=None)
    )
    assert record([restarted])["servers"][0]["restart"]["ratio"] == 0.25
