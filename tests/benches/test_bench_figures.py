"""Figures are what their definitions say, and nothing that was sent is left out."""

import random
from collections.abc import Callable

import numpy
import pytest

from senryu.benches.client.sample import Failure, Sample, Usage
from senryu.benches.figures import (
    Slo,
    figures,
    first_tokens,
    meets,
    percentile,
    span,
    spread,
    time_of,
    tpot,
)

Make = Callable[..., Sample]
REFUSED = Failure(kind="refused", text="Overloaded", status=529, retry_after=2.0)
NO_SLO = Slo()


@pytest.mark.parametrize("count", [1, 2, 3, 16, 99, 1000])
def test_percentiles_are_numpys(count: int) -> None:
    rng = random.Random(count)
    values = [rng.expovariate(1.0) for _ in range(count)]
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert percentile(sorted(values), share) == pytest.approx(
            numpy.percentile(values, 100 * share)
        )
    found = spread(values)
    assert found is not None
    assert found.p90 == pytest.approx(numpy.percentile(values, 90))
    assert found.mean == pytest.approx(numpy.mean(values))
    assert (found.most, found.count) == (max(values), count)


def test_of_nothing_there_is_no_spread() -> None:
    assert spread([]) is None


def test_waiting_counts_from_when_a_request_was_due(sample: Make) -> None:
    """A client that could not send in time has waited all the same."""
    late = sample(due=10.0, sent=13.0, first=4.0, gaps=())
    assert first_tokens([late]) == [4.0]
    found = figures([late], span([late]), NO_SLO)
    assert found.ttft is not None
    assert found.e2e is not None
    assert (found.ttft.p50, found.e2e.p50) == (4.0, 4.0)


def test_a_token_after_the_first_takes_the_rest_of_the_time(sample: Make) -> None:
    """Over tokens and not over pieces: a piece may hold several."""
    assert tpot(sample(gaps=(0.2, 0.4), output=7)) == pytest.approx(0.1)
    assert tpot(sample(gaps=(), output=1)) is None
    assert tpot(sample(first=None, output=0)) is None


def test_gaps_of_all_answers_are_one_heap(sample: Make) -> None:
    found = figures([sample(gaps=(0.1, 0.1)), sample(gaps=(0.3,))], 1.0, NO_SLO)
    assert found.itl is not None
    assert found.itl.count == 3
    assert found.itl.most == 0.3
    assert found.itl.p50 == pytest.approx(0.1)


def test_throughput_is_over_the_whole_time_and_failures_make_it_no_shorter(sample: Make) -> None:
    good = [sample(due=0.0, output=4), sample(due=1.0, output=6)]
    bad = sample(due=2.0, first=None, ended=10.0, failure=REFUSED, usage=None)
    samples = [*good, bad]
    assert span(samples) == 10.0
    found = figures(samples, span(samples), NO_SLO)
    assert (found.requests, found.good, found.output_tokens) == (3, 2, 10)
    assert found.output_tokens_per_second == pytest.approx(1.0)
    assert found.total_tokens_per_second == pytest.approx(21.0)
    assert found.requests_per_second == pytest.approx(0.2)


def test_tokens_of_an_answer_that_failed_do_not_count(sample: Make) -> None:
    cut = sample(output=50, failure=Failure(kind="cut off", text="it ended"))
    found = figures([cut], span([cut]), NO_SLO)
    assert found.output_tokens_per_second == 0
    assert found.ttft is found.itl is found.tpot is found.e2e is None


def test_without_usage_pieces_are_counted_and_that_is_told(sample: Make) -> None:
    found = figures([sample(usage=None), sample()], 1.0, NO_SLO)
    assert found.output_tokens == 8
    assert found.pieces_for_tokens == 1
    assert found.prompt_tokens is found.total_tokens_per_second is None


def test_tokens_of_a_cache_are_tokens_of_the_prompt(sample: Make) -> None:
    half = Usage(input=20, output=4, cache_read=50, cache_creation=30)
    found = figures([sample(usage=half)], 1.0, NO_SLO)
    assert found.prompt_tokens == 100
    assert found.cached == 0.5
    assert figures([sample()], 1.0, NO_SLO).cached is None


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(ttft=0.5), True),
        (Slo(ttft=0.4), False),
        (Slo(tpot=0.11), True),
        (Slo(tpot=0.09), False),
        (Slo(e2e=0.81), True),
        (Slo(e2e=0.7), False),
        (Slo(ttft=0.5, tpot=0.09), False),
    ],
)
def test_every_bound_has_to_be_kept(sample: Make, slo: Slo, met: bool) -> None:
    assert meets(sample(), slo) is met


def test_what_an_answer_has_not_it_cannot_break_but_one_without_a_token_is_late(
    sample: Make,
) -> None:
    assert meets(sample(gaps=()), Slo(tpot=0.001))
    assert not meets(sample(first=None), Slo(ttft=100.0))


def test_goodput_is_of_those_that_met_it_and_its_share_is_of_all(sample: Make) -> None:
    samples = [sample(), sample(first=9.0), sample(failure=REFUSED), sample()]
    found = figures(samples, 4.0, Slo(ttft=1.0))
    assert found.met_slo == 2
    assert found.goodput == pytest.approx(0.5)
    assert found.met_share == pytest.approx(0.5)
    assert figures(samples, 4.0, NO_SLO).goodput is None


def test_failures_are_counted_by_kind_with_what_one_was_told(sample: Make) -> None:
    later = Failure(kind="refused", text="Overloaded", status=529, retry_after=7.0)
    limited = Failure(kind="refused", text="Slow down", status=429)
    silent = Failure(kind="silent", text="nothing came for 5 seconds")
    whys = (REFUSED, silent, later, limited)
    found = figures([sample(failure=why) for why in whys], 1.0, NO_SLO)
    first, *others = found.failures
    assert (first.kind, first.status, first.count) == ("refused", 529, 2)
    assert first.example == "Overloaded"
    assert first.retry_after == (2.0, 7.0)
    assert {(each.kind, each.status, each.retry_after) for each in others} == {
        ("refused", 429, None),
        ("silent", None, None),
    }


def test_no_request_at_all_is_no_division_by_zero() -> None:
    found = figures([], span([]), Slo(ttft=1.0))
    assert found.output_tokens_per_second == found.goodput == found.met_share == 0
    assert time_of("ttft", "p99")(found) is None


def test_an_slo_says_what_it_is() -> None:
    assert str(Slo(ttft=2.0, tpot=0.1)) == "ttft=2,tpot=0.1"
    assert str(NO_SLO) == ""
