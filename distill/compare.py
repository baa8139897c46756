"""Figures that compare two distributions, and how sure a figure is.

Comes in: logits, stored probabilities, sums over samples. Goes out: nats, shares, and a `Figure`
with the interval that other samples of the same kind would have given. Pure: it knows no model,
no file and no sample. Rows of logits are positions, columns are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 2000
"""Bootstrap samples of one interval."""
_SEED = 17


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, and the bounds of its 95 % interval; None where one case alone tells
    nothing of others."""

    value: float
    low: float | None = None
    high: float | None = None

    def exp(self) -> Figure:
        """The same figure, e raised to it: from nats to perplexity."""
        low, high = (None if each is None else _exp(each) for each in (self.low, self.high))
        return Figure(_exp(self.value), low, high)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats at each position, from logits over the whole vocabulary."""
    told, guessed = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    # Where the teacher gives no probability at all, nothing is lost whatever the student gives.
    parts = told.exp() * (told - guessed)
    return parts.where(told.isfinite(), 0.0).sum(-1, dtype=_double())


def kl_to_stored(ids: Tensor, logprobs: Tensor, tail: Tensor, student: Tensor) -> Tensor:
    """The same from what was stored of the teacher: k tokens, and all others as one outcome.

    Never more than the KL over the whole vocabulary, since it does not see how the others differ
    among themselves.
    """
    guessed = student.float().log_softmax(-1)
    told = logprobs.to(_double())
    parts = told.exp() * (told - guessed.gather(-1, ids).to(_double()))
    known = parts.where(told.isfinite(), 0.0).sum(-1)
    # One minus the stored ones would lose a small rest to rounding.
    rest = guessed.scatter(-1, ids, -math.inf).logsumexp(-1).to(_double())
    left = tail.to(_double())
    return known + (left * (left.log() - rest)).where(left > 0, 0.0)


def surprise(student: Tensor, tokens: Tensor) -> Tensor:
    """Minus the log-probability of the token that came, in nats at each position."""
    guessed = student.float().log_softmax(-1)
    return -guessed.gather(-1, tokens[:, None])[:, 0].to(_double())


def agreed(best: Tensor, student: Tensor) -> Tensor:
    """Whether the student's most probable token is the teacher's, at each position."""
    return student.argmax(-1) == best


def ratio(
    parts: Sequence[float], wholes: Sequence[float], tasks: Sequence[str] | None = None
) -> Figure | None:
    """The sum of `parts` over the sum of `wholes`, one of each for a sample: KL over tokens, say.

    The interval is the bootstrap's (Efron 1979): what is drawn again with replacement are whole
    tasks, since the positions of one are much alike. Samples that name the same one of `tasks` are
    turns of one conversation; without `tasks` each is its own. None where there is nothing to
    divide by; a figure without bounds where a single task has any weight.
    """
    above, below = _by_task(parts, tasks), _by_task(wholes, tasks)
    if not below.sum() > 0:
        return None
    value = float(above.sum() / below.sum())
    if (below > 0).sum() < 2:
        return Figure(value)
    counts = np.random.default_rng(_SEED).multinomial(
        len(below), np.full(len(below), 1 / len(below)), size=DRAWS
    )
    drawn = counts @ below
    drawn, told = drawn[drawn > 0], (counts @ above)[drawn > 0]
    low, high = np.quantile(told / drawn, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def _by_task(values: Sequence[float], tasks: Sequence[str] | None) -> np.ndarray:
    """The sums of each task, in the order in which the tasks first come."""
    if tasks is None:
        return np.asarray(values, float)
    sums: dict[str, float] = {}
    for task, value in zip(tasks, values, strict=True):
        sums[task] = sums.get(task, 0.0) + value
    return np.asarray(list(sums.values()), float)


def _double() -> Any:
    import torch

    return torch.float64
