"""The comparing figures equal their definitions, computed slowly in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_student import top_of

from senryu.distill import compare

SHAPE = (7, 50)


def logits(seed: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * scale


def probabilities(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 12))
def test_kl_is_its_definition(seed: int, scale: float) -> None:
    told, guessed = logits(seed, scale), logits(seed + 1, scale)
    p, q = probabilities(told), probabilities(guessed)
    wanted = (p * (np.log(p) - np.log(q))).sum(-1)
    found = compare.kl(tensor(told), tensor(guessed))
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("k", [1, 5, 49])
def test_kl_to_what_was_stored_sees_the_others_as_one(k: int) -> None:
    told, guessed = logits(1), logits(2)
    kept, ids, tail = top_of(told, k)
    p, q = probabilities(told), probabilities(guessed)
    part, other = np.take_along_axis(p, ids, -1), np.take_along_axis(q, ids, -1)
    rest = (1 - part.sum(-1)) * np.log((1 - part.sum(-1)) / (1 - other.sum(-1)))
    wanted = (part * np.log(part / other)).sum(-1) + rest
    found = compare.kl_to_stored(
        torch.from_numpy(ids).long(), tensor(kept), tensor(tail), tensor(guessed)
    )
    assert found.numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    whole = compare.kl(tensor(told), tensor(guessed))
    assert (found <= whole + 1e-5).all()


def test_equal_distributions_are_no_nats_apart() -> None:
    told = logits(3)
    kept, ids, tail = top_of(told, 8)
    assert compare.kl(tensor(told), tensor(told)).abs().max() < 1e-6
    stored = torch.from_numpy(ids).long(), tensor(kept), tensor(tail)
    assert compare.kl_to_stored(*stored, tensor(told)).abs().max() < 1e-5


def test_one_certain_token_costs_its_surprise_and_no_nan() -> None:
    """A row of -inf beyond its first entry, and a tail of nothing."""
    guessed = tensor(logits(4))
    ids = torch.arange(3)[None].repeat(SHAPE[0], 1)
    kept = torch.tensor([[0.0, -math.inf, -math.inf]]).repeat(SHAPE[0], 1)
    found = compare.kl_to_stored(ids, kept, torch.zeros(SHAPE[0]), guessed)
    assert torch.allclose(found, compare.surprise(guessed, ids[:, 0]), atol=1e-6)


def test_a_small_rest_is_not_lost_to_rounding() -> None:
    """The student gives the stored tokens all but 1e-12, which float32 cannot tell from all."""
    guessed = torch.zeros(1, 3)
    guessed[0, 0] = 27.631
    found = compare.kl_to_stored(
        torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([0.5]), guessed
    )
    rest = 2 * math.exp(-27.631)
    assert float(found) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / rest), rel=1e-4)


def test_a_teacher_that_forbids_tokens_is_compared_on_the_others() -> None:
    told = torch.tensor([[0.0, -math.inf, 0.0]])
    found = compare.kl(told, torch.zeros(1, 3))
    assert float(found) == pytest.approx(math.log(1.5), rel=1e-6)


def test_surprise_and_first_choice_are_read_off_the_student() -> None:
    guessed = tensor(logits(5))
    tokens = torch.arange(SHAPE[0])
    wanted = -np.log(probabilities(logits(5)))[np.arange(SHAPE[0]), np.arange(SHAPE[0])]
    assert compare.surprise(guessed, tokens).numpy() == pytest.approx(wanted, rel=1e-4)
    best = guessed.argmax(-1)
    best[0] = (best[0] + 1) % SHAPE[1]
    assert compare.agreed(best, guessed).tolist() == [False] + [True] * (SHAPE[0] - 1)


def test_a_ratio_has_an_interval_around_it_that_narrows_with_samples() -> None:
    chance = np.random.default_rng(0)
    widths = []
    for count in (10, 1000):
        wholes = chance.integers(5, 50, count)
        parts = wholes * chance.normal(2.0, 0.5, count)
        figure = compare.ratio(parts.tolist(), wholes.tolist())
        assert figure
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high
        assert figure.value == pytest.approx(parts.sum() / wholes.sum())
        widths.append(figure.high - figure.low)
    assert widths[1] < widths[0] / 4
    assert figure.low < 2.0 < figure.high


def test_the_same_samples_have_the_same_interval() -> None:
    assert compare.ratio([1, 2, 3], [4, 5, 6]) == compare.ratio([1, 2, 3], [4, 5, 6])


def test_one_sample_says_nothing_of_others() -> None:
    assert compare.ratio([3.0], [2.0]) == compare.Figure(1.5, None, None)
    assert compare.ratio([3.0, 0.0], [2.0, 0.0]) == compare.Figure(1.5, None, None)
    assert compare.Figure(0.0).exp() == compare.Figure(1.0, None, None)


def test_what_is_drawn_are_tasks_and_not_their_samples() -> None:
    """The interval of turns is that of their conversations, and so wider than if each were drawn
    by itself."""
    chance = np.random.default_rng(1)
    means = np.repeat(chance.normal(2.0, 1.0, 12), 10)
    parts, wholes = means.tolist(), [1.0] * 120
    tasks = [f"t{number // 10}" for number in range(120)]
    apart, together = compare.ratio(parts, wholes), compare.ratio(parts, wholes, tasks)
    assert apart
    assert together
    whole = compare.ratio((10 * means[::10]).tolist(), [10.0] * 12)
    assert whole
    assert together.value == pytest.approx(whole.value)
    assert together.low == pytest.approx(whole.low)
    assert apart.low is not None
    assert apart.high is not None
    assert together.low is not None
    assert together.high is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_nothing_to_divide_by_is_no_figure() -> None:
    assert compare.ratio([], []) is None
    assert compare.ratio([0.0], [0.0]) is None


def test_samples_without_weight_do_not_spoil_an_interval() -> None:
    figure = compare.ratio([0.0] * 9 + [1.0] * 2, [0.0] * 9 + [2.0] * 2)
    assert figure == compare.Figure(0.5, 0.5, 0.5)


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert compare.Figure(1000.0, 0.0, 2000.0).exp() == compare.Figure(math.inf, 1.0, math.inf)
