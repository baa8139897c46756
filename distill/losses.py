"""What a student loses at a position, against what the teacher thought there. Pure functions.

Comes in: what the student and the teacher think of the teacher's k stored tokens, at n positions,
and of all others together. Goes out: n losses in nats. Both are seen as distributions over k + 1
outcomes: each stored token, and "any other". Such a coarser view never shows more difference than
the whole vocabulary does, and with k = v it is the whole vocabulary. It refuses to know how logits
are made, and how losses are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DistillError
from .recipe import LossName

NOTHING = math.log(1e-10)
"""Stands for the logarithm of 0. Where the teacher holds an outcome for impossible, a loss that
averages over the student would be infinite; with this it is large, and has a gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The teacher's word on n positions."""

    tokens: Tensor
    """int64 [n]: what it wrote."""
    ids: Tensor
    """int64 [n, k]: what it stored. Where the probability is 0, the id means nothing."""
    logprobs: Tensor
    """float [n, k]."""
    tail: Tensor
    """float [n]: the probability of all other tokens."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> Targets:
        return Targets(self.tokens[part], self.ids[part], self.logprobs[part], self.tail[part])

    def to(self, device: torch.device) -> Targets:
        parts = (self.tokens, self.ids, self.logprobs, self.tail)
        return Targets(*(each.to(device, non_blocking=True) for each in parts))

    @property
    def known(self) -> Tensor:
        """bool [n, k]: which entries are tokens at all. A certain token has no others beside it."""
        return self.logprobs > -math.inf

    @property
    def places(self) -> Tensor:
        """`ids`, with the first known one again where there is none, so that all can be looked
        up."""
        if not self.ids.shape[1]:
            return self.ids
        first = self.ids.gather(1, self.known.byte().argmax(dim=1, keepdim=True))
        return torch.where(self.known, self.ids, first)

    def within(self, size: int) -> Targets:
        """The same for a student of `size` tokens. A teacher's matrices may have more rows than
        its tokenizer has tokens; what it stored of those is "any other" to the student."""
        if not self.ids.shape[1]:
            return self
        beyond = self.known & (self.ids >= size)
        inside = self.known & ~beyond
        mass = torch.where(beyond, self.logprobs, -math.inf).exp().sum(dim=1)
        ids = torch.where(inside, self.ids, 0)
        logprobs = torch.where(inside, self.logprobs, -math.inf)
        # Where nothing is left, one outcome has to be a token: the written one, held for
        # impossible.
        none = ~inside.any(dim=1)
        ids[:, 0] = torch.where(none, self.tokens, ids[:, 0])
        logprobs[:, 0] = torch.where(none, NOTHING, logprobs[:, 0])
        return Targets(self.tokens, ids, logprobs, self.tail + mass.to(self.tail.dtype))

    def log_p(self, dtype: torch.dtype) -> Tensor:
        """[n, k + 1]: the teacher's distribution, `NOTHING` where it has no mass."""
        tail = self.tail.to(dtype)[:, None].log()
        return _finite(torch.cat([self.logprobs.to(dtype), tail], dim=1))


def _finite(logarithms: Tensor) -> Tensor:
    return torch.where(logarithms > -math.inf, logarithms, NOTHING)


def coarse(stored: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """The student's log-probabilities of the k + 1 outcomes.

    `stored` [n, k] are its log-probabilities of the teacher's tokens, `others` [n] that of the
    rest together.
    """
    stored = torch.where(known, stored, NOTHING)
    return torch.cat([stored, _finite(others)[:, None]], dim=1)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(teacher || student): the student must be able to say all that the teacher would."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(student || teacher): the student must say nothing that the teacher would not."""
    return forward_kl(log_q, log_p)


def skew_kl(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    """KL(teacher || mix * teacher + (1 - mix) * student), the skewed KL of DistiLLM (Ko et al.
    2024)."""
    return forward_kl(log_p, _mixture(log_p, log_q, mix))


def skew_reverse_kl(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    """KL(student || mix * student + (1 - mix) * teacher)."""
    return forward_kl(log_q, _mixture(log_q, log_p, mix))


def jensen_shannon(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    """The generalised divergence of GKD (Agarwal et al. 2024): teacher and student, each against
    their mixture. At 0 and 1 it vanishes; what it tends to there, after division by `mix` or
    1 - `mix`, is the forward and the reverse KL, and these are taken."""
    if mix == 0:
        return forward_kl(log_p, log_q)
    if mix == 1:
        return reverse_kl(log_p, log_q)
    middle = _mixture(log_p, log_q, mix)
    return mix * forward_kl(log_p, middle) + (1 - mix) * forward_kl(log_q, middle)


def _mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """log(weight * a + (1 - weight) * b)."""
    if weight == 0:
        return log_b
    if weight == 1:
        return log_a
    return torch.logaddexp(log_a + math.log(weight), log_b + math.log(1 - weight))


def divergence(name: LossName, mix: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The loss of that name at each position. `sft` is none of them: it knows no distribution."""
    match name:
        case "forward-kl":
            return forward_kl(log_p, log_q)
        case "reverse-kl":
            return reverse_kl(log_p, log_q)
        case "skew-kl":
            return skew_kl(log_p, log_q, mix)
        case "skew-reverse-kl":
            return skew_reverse_kl(log_p, log_q, mix)
        case "js":
            return jensen_shannon(log_p, log_q, mix)
    raise AssertionError(f"{name} compares no distributions")


def refuse_impossible(name: LossName, mix: float, top_k: int) -> None:
    """Raises DistillError where a recipe asks for a loss that cannot be computed, or that is 0
    whatever the student says."""
    if name != "sft" and top_k == 0:
        raise DistillError(
            f"The loss {name} compares distributions, and the samples hold text only: set "
            'train.loss = "sft", or collect samples with teacher.top_k above 0.'
        )
    if name in ("skew-kl", "skew-reverse-kl", "js") and not 0 <= mix <= 1:
        raise DistillError(f"train.mix is {mix}; it takes a number from 0 to 1.")
    if name in ("skew-kl", "skew-reverse-kl") and mix == 1:
        raise DistillError(
            f"train.mix is 1, with which the loss {name} is 0 whatever the student says: lower it, "
            "to 0.1 for example."
        )
