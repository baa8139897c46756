"""The losses the plain way, with all logits in memory: what `vocabulary.py`, which does the same in
pieces, is held against."""

import math

import torch
from torch import Tensor

from senryu.distill.losses import Targets, coarse, divergence, refuse_impossible
from senryu.distill.recipe import LossName


def student_log_q(logits: Tensor, targets: Targets) -> Tensor:
    """[n, k + 1]: the student's distribution over the teacher's outcomes, from whole logits."""
    whole = logits.logsumexp(dim=-1, keepdim=True)
    rest = logits.scatter(1, targets.places, -math.inf)
    # With k = v nothing is left, and the gradient of an empty sum is no number.
    some = (rest > -math.inf).any(dim=-1)
    others = torch.where(some[:, None], rest, 0.0).logsumexp(dim=-1) - whole[:, 0]
    others = torch.where(some, others, -math.inf)
    return coarse(logits.gather(1, targets.places) - whole, others, targets.known)


def token_losses(name: LossName, mix: float, logits: Tensor, targets: Targets) -> Tensor:
    """[n]: the loss of that name at each position."""
    if name == "sft":
        return torch.nn.functional.cross_entropy(logits, targets.tokens, reduction="none")
    refuse_impossible(name, mix, targets.ids.shape[1])
    return divergence(name, mix, targets.log_p(logits.dtype), student_log_q(logits, targets))
