"""How many tokens a model may think with.

A budget is the whole thought, its closing mark included. The grammar closes the thought when it
is spent, so it always holds; here it is only chosen, such that room for the answer is left. A
budget that no client named goes in coarse steps: with each new one a grammar is compiled anew, and
what is left of a window changes with each turn.
"""

from senryu.server.conversation.messages import Thinking

# Eighths of the answer, where the client named an effort and no budget.
_EIGHTHS = {"low": 1, "medium": 2, "high": 4, "xhigh": 5, "max": 6}


def thinking_budget(thinking: Thinking, *, allowed: int) -> int:
    """The most tokens that the thought may take of the `allowed` ones of the whole answer.

    A client's own budget is kept to the token where some of the answer fits behind it; where none
    would (a budget above `max_tokens`, or a window that is nearly full), the thought gets what
    the highest effort gives it: about three quarters. With too few tokens for the closing mark the
    budget closes the thought at once, and the answer has what is left.
    """
    if thinking.budget is not None and thinking.budget < allowed:
        return thinking.budget
    effort = "max" if thinking.budget is not None else thinking.effort
    return _coarse(allowed * _EIGHTHS[effort] // 8)


def _coarse(budget: int) -> int:
    """No more than `budget`: its three highest bits."""
    low = max(0, budget.bit_length() - 3)
    return budget >> low << low
