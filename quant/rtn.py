"""Round-to-nearest: the plainest way to turn weights into 4-bit codes, and the measure of others.

Comes in: one weight matrix `(out, in)` and a group size. Goes out: `GroupCodes`, that is 4-bit
codes with one scale (and, asymmetric, one zero point) for every `group_size` neighbours along
`in`. Pure functions on tensors: it refuses to know models, files and what any engine can load.

Both ways keep one promise: every finite weight w comes back as a value v with

    |w - v| <= scale / 2

Scales are rounded *up* to their stored type; rounded to nearest, half of them would be a little
too small and the largest weight of the group would be cut off beyond half a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, HIGHEST = -8, 7
"""The sixteen codes of a signed 4-bit number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCodes:
    """A weight matrix in 4 bits: `value = (code - zero) * scale`, group by group."""

    codes: Tensor
    """int8 `(out, in)`, each in -8..7."""
    scale: Tensor
    """`(out, in / group_size)`, in the weight's own unit, positive; one step of the grid."""
    zero: Tensor | None
    """int8 like `scale`, each in -8..7: the code that means zero. None: it is 0 everywhere."""

    @property
    def group_size(self) -> int:
        return int(self.codes.shape[1] // self.scale.shape[1])

    def values(self) -> Tensor:
        """The weights that the codes stand for, float32 `(out, in)`."""
        steps = self.codes.float().unflatten(1, (-1, self.group_size))
        if self.zero is not None:
            steps = steps - self.zero.float().unsqueeze(-1)
        return (steps * self.scale.float().unsqueeze(-1)).flatten(1)


def quantize(
    weight: Tensor,
    *,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype = torch.bfloat16,
) -> GroupCodes:
    """Codes by the way that `symmetric` names; see the two functions below."""
    way = quantize_symmetric if symmetric else quantize_asymmetric
    return way(weight, group_size=group_size, scale_dtype=scale_dtype)


def quantize_symmetric(
    weight: Tensor, *, group_size: int, scale_dtype: torch.dtype = torch.bfloat16
) -> GroupCodes:
    """scale = max|w| / 7 over the group, code = round(w / scale).

    The code -8 stays unused. Stretching the grid over it (dividing by 7.5 or 8) makes the mean
    error a little smaller and the embedded model not better, see docs/lab-notes.md.
    """
    groups = _groups(weight, group_size)
    scale = _round_up(groups.abs().amax(dim=-1) / HIGHEST, scale_dtype)
    codes = torch.round(groups / scale.float().unsqueeze(-1)).clamp(LOWEST, HIGHEST)
    return GroupCodes(codes=codes.flatten(1).to(torch.int8), scale=scale, zero=None)


def quantize_asymmetric(
    weight: Tensor, *, group_size: int, scale_dtype: torch.dtype = torch.bfloat16
) -> GroupCodes:
    """scale = (high - low) / 15, zero = round(-8 - low / scale), code = round(w / scale + zero).

    `low` and `high` are the group's extremes, moved so that zero lies between them: the zero
    point is a 4-bit code itself, and a weight of exactly zero stays exactly zero.
    """
    groups = _groups(weight, group_size)
    low = groups.amin(dim=-1).clamp(max=0)
    high = groups.amax(dim=-1).clamp(min=0)
    steps = HIGHEST - LOWEST
    # Divided first: the difference of two extreme weights may not fit into float32.
    scale = _round_up(high / steps - low / steps, scale_dtype)
    zero = torch.round(LOWEST - low / scale.float()).clamp(LOWEST, HIGHEST)
    codes = torch.round(groups / scale.float().unsqueeze(-1) + zero.unsqueeze(-1))
    return GroupCodes(
        codes=codes.clamp(LOWEST, HIGHEST).flatten(1).to(torch.int8),
        scale=scale,
        zero=zero.to(torch.int8),
    )


def _groups(weight: Tensor, group_size: int) -> Tensor:
    """The weight as float32 `(out, groups, group_size)`, or one sentence that refuses it."""
    if weight.ndim != 2:
        raise ValueError(
            f"Only matrices can be quantized in groups, this weight has the shape "
            f"{tuple(weight.shape)}: leave it in full precision."
        )
    if group_size < 1 or weight.shape[1] % group_size:
        raise ValueError(
            f"A weight with {weight.shape[1]} input features cannot be cut into groups of "
            f"{group_size}: choose a group size that divides {weight.shape[1]}."
        )
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(
            "The weight holds infinite or undefined numbers, so it has no 4-bit codes: "
            "the model file is damaged, get it again."
        )
    return weight.detach().float().unflatten(1, (-1, group_size))


def _round_up(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of `dtype` that is at least `scale`, and never zero or subnormal."""
    floor = torch.finfo(dtype).smallest_normal
    stored = scale.clamp(min=floor).to(dtype)
    above = torch.nextafter(stored, torch.full_like(stored, torch.inf))
    return torch.where(stored.float() < scale, above, stored)
