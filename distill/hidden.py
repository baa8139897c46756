"""Matching of hidden states, for a student that is made of some of its teacher's layers. Pure.

Comes in: which layers those are, and the hidden states of both. Goes out: which states belong
together, and a number for each position. It refuses to know how the states are got.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .errors import DistillError


def pairs(kept: Sequence[int], teacher_layers: int) -> tuple[tuple[int, int], ...]:
    """Of each of the student's layers, its number and that of the teacher's layer after which the
    same state should be reached.

    A layer stands for itself and for those that were left out behind it, so what it gives is held
    against what the teacher gives to the next layer that was kept.
    """
    if list(kept) != sorted(set(kept)) or not kept or not 0 <= kept[0] <= kept[-1] < teacher_layers:
        raise DistillError(
            f"The student is said to be made of the layers {list(kept)} of a teacher with "
            f"{teacher_layers}: they must rise, and be its own."
        )
    following = (*kept[1:], teacher_layers)
    return tuple((place, after - 1) for place, after in enumerate(following))


def state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """[n]: how far two hidden states [n, d] are from each other, as a part of the teacher's own
    size: 0 when equal, 1 for a student that says nothing.

    Each position counts alike. (Some tokens, the first of a text above all, have states a hundred
    times larger than others; a plain mean would look at nothing else.)
    """
    student, teacher = student.float(), teacher.float()
    size = teacher.square().sum(dim=-1).clamp_min(1e-6)
    return (student - teacher).square().sum(dim=-1) / size


def matching(
    student: Sequence[Tensor], teacher: Sequence[Tensor], matched: Sequence[tuple[int, int]]
) -> Tensor:
    """[n]: the mean over the pairs; states count from the embedding, so layer i gives state
    i + 1."""
    told = [state_loss(student[mine + 1], teacher[theirs + 1]) for mine, theirs in matched]
    return sum(told[1:], told[0]) / len(told)
