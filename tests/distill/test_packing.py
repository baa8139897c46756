"""Rows hold many samples that do not see each other, and the plan is the same every time."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lessons import made_up, some, tiny_student

from senryu.distill import packing
from senryu.distill.learner import run
from senryu.distill.packing import Plan, epoch_rows, learnt

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 5), st.integers(0, 5))
def test_each_sample_is_read_once_in_an_epoch(lengths: list[int], seed: int, epoch: int) -> None:
    """And no row is longer than it may be; one alone that is too long is cut."""
    rows = epoch_rows(lengths, 32, seed, epoch)
    assert sorted(each for row in rows for each in row) == list(range(len(lengths)))
    assert all(sum(min(lengths[each], 32) for each in row) <= 32 for row in rows)
    assert rows == epoch_rows(lengths, 32, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = [5 + n % 20 for n in range(50)]
    orders = [epoch_rows(lengths, 32, seed, epoch) for seed in range(2) for epoch in range(2)]
    assert len({tuple(each) for each in orders}) == 4


def test_little_is_wasted() -> None:
    chance = np.random.default_rng(0)
    lengths = chance.integers(20, 400, 2000).tolist()
    rows = epoch_rows(lengths, 512, 0, 0)
    assert sum(lengths) / (512 * len(rows)) > 0.98


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 400))
def test_a_plan_reads_what_was_asked_and_stops(lengths: list[int], rows: int, tokens: int) -> None:
    """Every step is full, the tokens are reached in the last one."""
    plan = Plan(lengths, sequence=32, rows=rows, tokens=tokens, seed=1)
    read = [plan.tokens(step) for step in range(plan.steps)]
    assert sum(read) >= tokens > sum(read[:-1])
    assert all(len(plan.step(step)) == rows for step in range(plan.steps))
    times = Counter(each for step in range(plan.steps) for row in plan.step(step) for each in row)
    assert max(times.values()) - min(times[each] for each in range(len(lengths))) <= 1


def test_any_step_can_be_asked_for() -> None:
    """A plan made anew says the same of its seventh step as one whose steps were all taken."""
    lengths = [5 + n % 20 for n in range(50)]
    plans = [Plan(lengths, sequence=32, rows=2, tokens=2000, seed=3) for _ in range(2)]
    taken = [plans[0].step(step) for step in range(plans[0].steps)]
    assert plans[1].step(7) == taken[7]


def test_no_sample_sees_another() -> None:
    """The logits of packed samples are those of each alone."""
    model = tiny_student().eval()
    rows = [some(3), some(5)[3:]]
    with torch.no_grad():
        packed, _ = run(model, packing.batch(rows, 64, 4))
        lessons = [lesson for row in rows for lesson in row]
        alone = [run(model, packing.batch([[each]], 64, 4))[0] for each in lessons]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_the_filling_of_a_row_is_harmless() -> None:
    """It sees itself alone, so nothing in it divides by nothing."""
    batch = packing.batch([some(2)], 64, 4)
    told = tiny_student().model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
    )
    assert told.last_hidden_state.isfinite().all()


def test_a_token_is_learnt_at_the_place_before_it() -> None:
    """And meets the distribution that was stored for it."""
    rows = [[made_up(3, 4, seed=1), made_up(2, 5, seed=2)], [made_up(4, 2, seed=3)]]
    batch = packing.batch(rows, 16, 4)
    flat = batch.input_ids.flatten()
    assert (flat[batch.where + 1] == batch.targets.tokens).all()
    wanted = np.concatenate([each.top_ids for row in rows for each in row])
    assert (batch.targets.ids.numpy() == wanted).all()
    assert batch.where.tolist() == [2, 3, 4, 5, 8, 9, 10, 11, 12, 19, 20]


def test_a_long_sample_keeps_its_end() -> None:
    """Its first token is not learnt then: nothing stands before it."""
    lesson = made_up(4, 20, seed=1)
    batch = packing.batch([[lesson]], 16, 4)
    assert (batch.input_ids[0].numpy() == lesson.token_ids[-16:]).all()
    assert (batch.targets.tokens.numpy() == lesson.token_ids[-15:]).all()
    assert (batch.targets.ids.numpy() == lesson.top_ids[-15:]).all()
    np.testing.assert_array_equal(batch.targets.tail.numpy(), lesson.tail[-15:])


@pytest.mark.parametrize("top_k", [0, 3])
def test_text_among_distributions_is_certain(top_k: int) -> None:
    lesson = made_up(2, 3, top_k=0)
    targets = packing.batch([[lesson]], 16, top_k).targets
    assert targets.ids.shape == (3, top_k)
    assert targets.tail.tolist() == [0.0] * 3
    if top_k:
        assert (targets.ids[:, 0] == targets.tokens).all()
        assert targets.logprobs[0].tolist() == [0.0, -np.inf, -np.inf]


def test_a_sample_without_an_answer_teaches_nothing() -> None:
    assert len(learnt(made_up(5, 0), 32)) == 0
