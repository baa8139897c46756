"""The output head and the loss together, in pieces, so that no tensor of all positions by the whole
vocabulary ever stands in memory.

Comes in: the last hidden states of the positions that carry loss, the head's matrix, and the
teacher's word on each position. Goes out: the weighted sum of losses, which can be differentiated,
and sums for people to read. The gradient is made on the way forward, piece by piece: while a
piece's logits are at hand they become its gradient, in place. It refuses to know the model.

For a loss of the k + 1 outcomes, whose gradient by the student's log-probabilities is g: let q be
the student's distribution, Q the mass that it gives to tokens which are not stored, G the sum of
all g, and s the weight of cross-entropy. Then the gradient by the logit of a token is
    g - q * (G - s)                      if it is stored,
    q / Q * (g_others - Q * (G - s))     if it is not,
less s for the token that the teacher wrote. `losses.py` makes the g; the rest is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import losses
from .losses import Targets
from .recipe import LossName


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised."""

    loss: LossName
    mix: float
    sft_weight: float
    """Of cross-entropy beside another loss; alone it has weight 1."""

    @property
    def cross_entropy(self) -> float:
        return 1.0 if self.loss == "sft" else self.sft_weight


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets,
    objective: Objective,
    *,
    scale: float,
    chunk: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """`scale` times the sum of losses over all n positions, and three sums without a gradient:
    the loss, the cross-entropy, and the forward KL (0 where only text is known).

    `hidden` [n, d], `weight` [v, d]. `chunk` positions are worked on at once; the three matrix
    products are computed in `dtype`, all the rest in float32 or better.
    """
    total, sums = _HeadLoss.apply(hidden, weight, targets, objective, scale, chunk, dtype)
    return total, sums


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Targets,
        objective: Objective,
        scale: float,
        chunk: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        known = targets.within(weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            sums, by_hidden, by_weight = _in_pieces(
                hidden.to(dtype), weight.to(dtype), known, objective, scale, chunk
            )
        ctx.save_for_backward(by_hidden.to(hidden.dtype), by_weight.to(weight.dtype))
        ctx.mark_non_differentiable(sums)
        return sums[0] * scale, sums

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * by_total, by_weight.mul_(by_total), None, None, None, None, None


def _in_pieces(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets,
    objective: Objective,
    scale: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three sums, and `scale` times the gradients of the loss."""
    exact = torch.promote_types(hidden.dtype, torch.float32)
    by_hidden = torch.zeros_like(hidden)
    by_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device)
    sums = torch.zeros(3, dtype=exact, device=hidden.device)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        logits = hidden[part] @ weight.T
        piece, slope = _piece(logits.to(exact), targets[part], objective)
        sums += piece
        slope = slope.mul_(scale).to(weight.dtype)
        by_hidden[part] = slope @ weight
        if weight.dtype == exact:
            by_weight.addmm_(slope.T, hidden[part])
        else:
            by_weight += slope.T @ hidden[part]
    return sums, by_hidden, by_weight


def _piece(logits: Tensor, targets: Targets, objective: Objective) -> tuple[Tensor, Tensor]:
    """The sums over one piece, and the gradient by its logits, which takes their place."""
    known, places = targets.known, targets.places
    stored = logits.gather(1, places)
    written = logits.gather(1, targets.tokens[:, None])
    share, others = _shares_of_others(logits, places)
    whole = torch.logaddexp(others, torch.where(known, stored, -math.inf).logsumexp(dim=1))
    log_q = losses.coarse(stored - whole[:, None], others - whole, known)
    cross_entropy = whole - written[:, 0]
    loss, kl, slope = _slope(log_q, targets, objective)
    # What the student cannot say has a number in the place of its logarithm, which nothing moves.
    there = torch.cat([known, (others > -math.inf)[:, None]], dim=1)
    slope = torch.where(there, slope, 0.0)
    weight = objective.cross_entropy
    loss = loss + weight * cross_entropy

    excess = slope.sum(dim=1, keepdim=True) - weight  # G - s
    q = log_q.exp()
    share.mul_(slope[:, -1:] - q[:, -1:] * excess)
    by_stored = torch.where(known, slope[:, :-1] - q[:, :-1] * excess, 0.0)
    share.scatter_add_(1, places, by_stored)
    share.scatter_add_(1, targets.tokens[:, None], torch.full_like(written, -weight))
    return torch.stack([loss.sum(), cross_entropy.sum(), kl.sum()]), share


def _shares_of_others(logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """What part each token has in the mass of those that are not stored (0 for the stored), in
    the logits' place; and the logarithm of that mass, not yet normalised."""
    logits.scatter_(1, places, -math.inf)
    highest = logits.amax(dim=1, keepdim=True)
    highest = torch.where(highest > -math.inf, highest, 0.0)  # nothing is left when k = v
    mass = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    share = logits.div_(mass.clamp_min(torch.finfo(mass.dtype).tiny))
    return share, (highest + mass.log())[:, 0]


def _slope(log_q: Tensor, targets: Targets, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each position without cross-entropy, its forward KL, and the gradient of the
    loss by the log-probabilities of the k + 1 outcomes."""
    none = log_q.new_zeros(len(log_q))
    if log_q.shape[1] == 1:  # text only
        return none, none, torch.zeros_like(log_q)
    log_p = targets.log_p(log_q.dtype)
    kl = losses.forward_kl(log_p, log_q)
    if objective.loss == "sft":
        return none, kl, torch.zeros_like(log_q)
    with torch.enable_grad():
        free = log_q.detach().requires_grad_()
        loss = losses.divergence(objective.loss, objective.mix, log_p, free)
        (slope,) = torch.autograd.grad(loss.sum(), free)
    return loss.detach(), kl, slope
