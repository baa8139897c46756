"""GPTQ: round one input column at a time and let the columns not yet rounded make up for it.

Comes in: a weight, a grid, and the second moments of what the layer reads. Goes out: `Codes`. Pure
functions on tensors; it refuses to know models and how moments were gathered. Frantar et al.,
"GPTQ", 2022 (arXiv 2210.17323).

Columns are taken in the order of their importance, the most important first, while groups and
scales stay where they are ("static" activation order): the result needs no permutation at run
time. Damping is not a constant here: each layer takes the one whose rounding does best on tokens
that the moments were not made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .grids import Codes, Grid, Steps, nearest

BLOCK = 128
"""Columns whose updates are gathered before the rest of the matrix gets them."""
DAMPING = (0.003, 0.01, 0.03, 0.1)
"""Tried parts of the mean second moment, added to each."""
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Tried parts of a group's range; what lies outside is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """What a layer reads, `x` with `in` features: the mean of `x x^T` over tokens."""

    fitted: Tensor
    """float32 `(in, in)`: what is rounded against."""
    judged: Tensor
    """float32 `(in, in)`: of other tokens; what damping is chosen by."""


def lost(weight: Tensor, values: Tensor, moments: Tensor) -> float:
    """The mean squared error of the layer's output, summed over its features."""
    difference = weight.detach().float() - values
    return float(((difference @ moments) * difference).sum())


def gptq(
    weight: Tensor,
    grid: Grid,
    moments: Moments,
    *,
    damping: tuple[float, ...] = DAMPING,
    shrink: tuple[float, ...] = SHRINK,
) -> Codes:
    """The best of several dampings on `moments.judged`; never worse there than rounding alone on
    the same scales. Raises ValueError where the moments are not finite, or the weight is not."""
    for each in (moments.fitted, moments.judged):
        _refuse_undefined(each)
    steps = best_steps(weight, grid, moments.fitted.diagonal(), shrink)
    found = nearest(weight, grid, steps)
    least = lost(weight, found.values(), moments.judged)
    for part in damping:
        codes = gptq_once(weight, grid, steps, moments.fitted, part)
        error = lost(weight, codes.values(), moments.judged)
        if error < least:
            found, least = codes, error
    return found


def best_steps(
    weight: Tensor, grid: Grid, importance: Tensor, shrink: tuple[float, ...] = SHRINK
) -> Steps:
    """For each group the range, among the tried parts of its own, with the least squared error
    weighted by `importance` `(in)`."""
    tried = [grid.fit(weight, each) for each in shrink]
    if len(tried) == 1:
        return tried[0]
    groups = tried[0].scale.shape[1]
    errors = []
    for steps in tried:
        difference = nearest(weight, grid, steps).values() - weight.detach().float()
        errors.append((difference.square() * importance).unflatten(1, (groups, -1)).sum(-1))
    best = torch.stack(errors).argmin(dim=0, keepdim=True)

    def chosen(each: list[Tensor]) -> Tensor:
        kind = each[0].dtype
        return torch.stack([it.float() for it in each]).gather(0, best)[0].to(kind)

    zeros = [steps.zero for steps in tried if steps.zero is not None]
    return Steps(
        scale=chosen([steps.scale for steps in tried]),
        zero=chosen(zeros) if zeros else None,
        global_scale=tried[0].global_scale,
    )


def gptq_once(weight: Tensor, grid: Grid, steps: Steps, moments: Tensor, damping: float) -> Codes:
    """One pass. Raises ValueError where the moments are not finite."""
    _refuse_undefined(moments)
    work = weight.detach().float().clone()
    columns = work.shape[1]
    order = moments.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(moments[order][:, order], damping)
    size, zero = (each[:, order] for each in steps.of_columns(columns))
    work = work[:, order]
    codes = torch.empty_like(work)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block = work[:, start:end].clone()
        errors = torch.empty_like(block)
        local = upper[start:end, start:end]
        for at in range(end - start):
            here = start + at
            code = grid.snap(block[:, at] / size[:, here] + zero[:, here])
            codes[:, here] = code
            error = (block[:, at] - (code - zero[:, here]) * size[:, here]) / local[at, at]
            errors[:, at] = error
            block[:, at + 1 :].addr_(error, local[at, at + 1 :], alpha=-1)
        work[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
    return Codes(codes=codes[:, order.argsort()].contiguous(), steps=steps)


def _refuse_undefined(moments: Tensor) -> None:
    if not bool(torch.isfinite(moments).all()):
        raise ValueError("what the layer reads holds infinite or undefined numbers")


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped moments' inverse. Damps more where it must."""
    identity = torch.eye(len(moments), device=moments.device)
    mean = moments.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    for _ in range(8):
        lower, failed = torch.linalg.cholesky_ex(moments + identity * (mean * damping))
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
        damping *= 10
    raise ValueError("what the layer reads cannot be inverted")
