"""A server that lies about tokens is caught, and one that says nothing is not accused."""

from collections.abc import Callable

import pytest

from senryu.benches.client.sample import Failure, Sample, Usage
from senryu.benches.truth import (
    BOUNDED,
    COUNTED,
    ENGINE,
    SEEN,
    TOLD,
    Counters,
    Grown,
    Truth,
    growth,
    merged,
    read_counters,
    truth,
)

Make = Callable[..., Sample]
PAGE = """\
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 24.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 64.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 5.0
vllm:request_prompt_tokens_count{engine="0"} 8.0
"""


def names(found: Truth) -> set[str]:
    return {check.name for check in found.checks}


def test_a_true_server_is_true(sample: Make) -> None:
    found = truth([sample(counted=100, stop_reason="max_tokens")])
    assert found.verdict == "true"
    assert names(found) == {COUNTED, BOUNDED, SEEN, TOLD}
    assert str(found) == "true"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"counted": 101}, "usage says 100 prompt tokens, and count_tokens said 101"),
        (
            {"stop_reason": "max_tokens", "output": 5},
            "max_tokens, 4, ended an answer of 5 output tokens",
        ),
        ({"output": 3}, "usage says 3 output tokens, and 4 pieces came"),
    ],
)
def test_a_lie_is_told_with_its_numbers(sample: Make, told: dict[str, int], said: str) -> None:
    found = truth([sample(), sample(**told)])
    assert found.verdict == "false"
    assert str(found).startswith("false: 1 of ")
    assert said in str(found)


def test_tokens_from_a_cache_are_of_the_prompt(sample: Make) -> None:
    usage = Usage(input=10, output=4, cache_read=80, cache_creation=10)
    assert truth([sample(usage=usage, counted=100)]).verdict == "true"


def test_who_says_nothing_is_not_accused(sample: Make) -> None:
    assert truth([sample(usage=None, counted=100)]).verdict == "not told"
    assert truth([]).verdict == "not told"


def test_who_says_it_only_sometimes_is(sample: Make) -> None:
    found = truth([sample(), sample(usage=None)])
    assert str(found) == "false: 1 of 2, such as: an answer ended without usage"


def test_an_answer_that_was_cut_has_no_whole_usage_to_judge(sample: Make) -> None:
    cut = sample(output=1, failure=Failure(kind="cut off", text="it ended"))
    assert truth([cut]).verdict == "not told"


def test_an_answer_of_a_wrong_form_has(sample: Make) -> None:
    wrong = sample(output=1, failure=Failure(kind="malformed", text="no call"))
    assert truth([wrong]).verdict == "false"


def test_the_engine_is_asked_too(sample: Make) -> None:
    samples = [sample(), sample()]
    found = truth(samples, Grown(prompt=200, output=8, requests=2))
    assert ENGINE in names(found)
    assert found.verdict == "true"
    found = truth(samples, Grown(prompt=200, output=9, requests=2))
    assert "the engine counted 9 output tokens, and the usage of all answers is 8" in str(found)


def test_an_engine_that_answered_others_too_says_nothing_about_us(sample: Make) -> None:
    assert ENGINE not in names(truth([sample()], Grown(prompt=999, output=99, requests=2)))


def test_nor_does_one_whose_answers_did_not_all_come(sample: Make) -> None:
    failed = sample(usage=None, failure=Failure(kind="silent", text="nothing came"))
    samples = [sample(), failed]
    assert ENGINE not in names(truth(samples, Grown(prompt=200, output=8, requests=1)))


def test_counters_of_several_engines_are_added_up() -> None:
    assert read_counters(PAGE) == Counters(prompt=1024, output=64, requests=8)


@pytest.mark.parametrize("page", ["", "<html>", PAGE.replace("vllm:generation", "other:")])
def test_a_page_without_them_is_no_page(page: str) -> None:
    assert read_counters(page) is None


def test_growth_needs_both_ends_and_an_engine_that_ran_on() -> None:
    before, after = (Counters(prompt=n, output=n, requests=n) for n in (5, 8))
    assert growth(before, after) == Grown(prompt=3, output=3, requests=3)
    assert growth(None, after) is growth(before, None) is growth(after, before) is None


def test_repeats_are_judged_together(sample: Make) -> None:
    both = merged([truth([sample()]), truth([sample(), sample(output=1)])])
    (seen,) = (check for check in both.checks if check.name == SEEN)
    assert (seen.met, seen.of) == (2, 3)
    assert both.verdict == "false"
    assert merged([]).verdict == "not told"
