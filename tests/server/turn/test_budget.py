"""A thought's budget leaves room for the answer, unless the client itself wants it otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Thinking
from senryu.server.turn.budget import thinking_budget

EFFORTS = ["low", "medium", "high", "xhigh", "max"]
thoughts = st.builds(
    Thinking, budget=st.none() | st.integers(1, 100_000), effort=st.sampled_from(EFFORTS)
)


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("low", 1024), ("medium", 2048), ("high", 4096), ("xhigh", 5120), ("max", 6144)],
)
def test_an_effort_is_a_share_of_the_answer(effort: str, budget: int) -> None:
    assert thinking_budget(Thinking(effort=effort), allowed=8192) == budget


@pytest.mark.parametrize("effort", EFFORTS)
def test_what_is_left_of_a_window_changes_the_budget_seldom(effort: str) -> None:
    """Each budget is a grammar of its own, and a conversation grows with each turn."""
    budgets = {thinking_budget(Thinking(effort=effort), allowed=n) for n in range(2048, 32_768)}
    assert len(budgets) <= 4 * 4 + 1


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_budget_of_the_clients_own_is_kept_whatever_the_effort(effort: str) -> None:
    assert thinking_budget(Thinking(budget=7999, effort=effort), allowed=8000) == 7999


@pytest.mark.parametrize("budget", [8192, 8193, 100_000])
def test_a_budget_that_leaves_no_room_gets_three_quarters(budget: int) -> None:
    assert thinking_budget(Thinking(budget=budget), allowed=8192) == 6144


@given(thoughts, st.integers(1, 100_000))
def test_there_is_always_room_for_the_answer(thinking: Thinking, allowed: int) -> None:
    budget = thinking_budget(thinking, allowed=allowed)
    assert 0 <= budget < allowed
    assert thinking.budget is None or budget <= thinking.budget
    if thinking.budget is None or thinking.budget >= allowed:
        assert budget <= allowed * 3 / 4


def test_where_there_is_hardly_room_the_thought_is_closed_at_once() -> None:
    assert thinking_budget(Thinking(effort="low"), allowed=5) == 0
