"""Grids: the numbers that a few bits can stand for, and how a weight finds its place among them.

Comes in: a weight matrix `(out, in)`. Goes out: `Codes`, numbers of a small set with one scale for
every `group_size` neighbours along `in`. Pure functions on tensors: it refuses to know models,
files, calibration and what any engine can load. Rounding each weight alone (`nearest`) is the
plainest way and the measure of the others; `gptq.py` rounds on the same grids with more thought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What a 4-bit float can be, signs apart (OCP Microscaling Formats 1.0, table 5)."""
_E4M3_HIGHEST = 448.0
_E4M3_LOWEST = 2.0**-6
"""Of those with all their digits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """The scales of a weight, group by group: `value = (code - zero) * scale / global_scale`."""

    scale: Tensor
    """`(out, groups)`, positive, in the type that is stored."""
    zero: Tensor | None = None
    """Like `scale`: the code that means zero. None: it is 0 everywhere."""
    global_scale: Tensor | None = None
    """float32 `(1)`, what all scales were multiplied by to fit their type."""

    @property
    def size(self) -> Tensor:
        """float32 like `scale`: how far two neighbouring integers of a code lie apart."""
        size = self.scale.float()
        return size if self.global_scale is None else size / self.global_scale

    def of_columns(self, columns: int) -> tuple[Tensor, Tensor]:
        """float32 `(out, columns)` twice: the size of a step and the zero of each weight."""
        size = self.size
        zero = torch.zeros_like(size) if self.zero is None else self.zero.float()
        group = columns // size.shape[1]
        return size.repeat_interleave(group, dim=1), zero.repeat_interleave(group, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """A weight matrix on a grid."""

    codes: Tensor
    """float32 `(out, in)`, each a number of the grid."""
    steps: Steps

    def values(self) -> Tensor:
        """The weights that the codes stand for, float32 `(out, in)`."""
        size, zero = self.steps.of_columns(self.codes.shape[1])
        return (self.codes - zero) * size


class Grid(Protocol):
    """A set of numbers and the rule by which a group gets its scale."""

    @property
    def group_size(self) -> int | None:
        """Neighbours that share a scale; None: the whole row."""

    @property
    def bits(self) -> float:
        """That one weight takes, its share of the scales included; for rows, without them."""

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        """Scales with which the grid spans `shrink` of each group's range. Raises ValueError for a
        weight that has no codes."""

    def snap(self, units: Tensor) -> Tensor:
        """The nearest codes; `units` are weights divided by their step, the zero added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """Signed integers of 4 or 8 bits, with or without a zero point."""

    width: int = 4
    symmetric: bool
    group_size: int | None
    scale_type: torch.dtype = torch.bfloat16

    @property
    def bits(self) -> float:
        if self.group_size is None:
            return float(self.width)
        zero = 0 if self.symmetric else self.width
        scale = 8 * int(self.scale_type.itemsize)
        return self.width + (scale + zero) / self.group_size

    @property
    def lowest(self) -> int:
        return -(1 << (self.width - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.width - 1)) - 1

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        """Scales are rounded *up* to their type: rounded to nearest, half of them would cut off
        the largest weight of their group beyond half a step. So with `shrink` 1 every weight comes
        back within half a step.

        Symmetric: max|w| / highest; the lowest code stays unused, since stretching the grid over
        it made the embedded model worse. Asymmetric: (high - low) over all steps, where the range
        is moved to hold zero, which thereby stays exactly zero.
        """
        groups = grouped(weight, self.group_size)
        if self.symmetric:
            reach = groups.abs().amax(dim=-1) * shrink
            return Steps(scale=_round_up(reach / self.highest, self.scale_type))
        low = groups.amin(dim=-1).clamp(max=0) * shrink
        high = groups.amax(dim=-1).clamp(min=0) * shrink
        steps = self.highest - self.lowest
        # Divided first: the difference of two extreme weights may not fit into float32.
        scale = _round_up(high / steps - low / steps, self.scale_type)
        zero = torch.round(self.lowest - low / scale.float()).clamp(self.lowest, self.highest)
        return Steps(scale=scale, zero=zero.to(torch.int8))

    def snap(self, units: Tensor) -> Tensor:
        return torch.round(units).clamp(self.lowest, self.highest)


class RowScaledIntegers(Integers):
    """Symmetric integers for vLLM's kernel with 8-bit inputs, which at loading rounds the scales of
    a row to 8-bit floats under one number for the row, its highest scale / 448.

    Had that not been done here already, scales would change by up to a sixteenth after the codes
    were chosen for them. So the scales that the kernel will have are the ones that are fitted, and
    what is left is that they are stored in bfloat16. Every weight still comes back within half a
    step.
    """

    __slots__ = ()

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        whole = Integers.fit(self, weight).scale.float()
        highest = whole.amax(dim=1, keepdim=True)
        # Fits of several shrinks are mixed: the scale that all of its row depend on stays.
        wanted = Integers.fit(self, weight, shrink).scale.float()
        wanted = torch.where(whole == highest, highest, wanted)
        unit = highest / _E4M3_HIGHEST
        # The kernel takes an eighth of them, and these shall not be subnormal.
        eighths = (wanted / unit).clamp(8 * _E4M3_LOWEST, _E4M3_HIGHEST).to(torch.float8_e4m3fn)
        return Steps(scale=(eighths.float() * unit).to(self.scale_type))


@dataclass(frozen=True, slots=True)
class NvFp4:
    """4-bit floats in groups of 16, whose scales are 8-bit floats under one for the whole matrix
    (NVIDIA's NVFP4)."""

    group_size: int = 16
    bits: float = 4.5

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        """The group with the largest weight gets the highest scale there is, the others theirs in
        proportion. With `shrink` 1 every weight comes back within one scale, which is half of the
        widest step.

        No scale is subnormal, though e4m3 has such numbers: on GPUs older than Blackwell vLLM reads
        them as zero, and with them all weights of their group.
        """
        reach = grouped(weight, self.group_size).abs().amax(dim=-1)
        whole = global_scale(float(reach.amax()))
        scale = (reach * shrink / E2M1[-1] * whole).clamp(_E4M3_LOWEST, _E4M3_HIGHEST)
        return Steps(
            scale=scale.to(torch.float8_e4m3fn),
            global_scale=torch.tensor([whole], device=weight.device),
        )

    def snap(self, units: Tensor) -> Tensor:
        return _nearest_e2m1(units)


@dataclass(frozen=True, slots=True)
class MxFp4:
    """4-bit floats in groups of 32 whose scales are powers of two (OCP Microscaling 1.0)."""

    group_size: int = 32
    bits: float = 4.25

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        """The smallest power of two under which the largest weight is at most 7 units: 6 is the
        highest code, and what is cut off is then at most half of the widest step.

        The specification leaves the choice open. Its example, `2^(floor(log2 max) - 2)`, cuts off
        all between 6 and 8; up to 7 both agree, beyond it this takes the next power.
        """
        reach = grouped(weight, self.group_size).abs().amax(dim=-1) * shrink
        mantissa, exponent = torch.frexp(reach)  # from 0.5 to 1; of 0 both are 0
        exponent = exponent - torch.where(mantissa <= 7 / 8, 3, 2)
        return Steps(scale=torch.exp2(exponent.float().clamp(-126, 125)))

    def snap(self, units: Tensor) -> Tensor:
        return _nearest_e2m1(units)


@dataclass(frozen=True, slots=True)
class Fp8:
    """8-bit floats (E4M3) with a scale a row. With `shrink` 1 a weight comes back within 1/16 of
    its own size, or within 2^-10 of the scale where that is more."""

    group_size: None = None
    bits: float = 8.0

    def fit(self, weight: Tensor, shrink: float = 1.0) -> Steps:
        reach = grouped(weight, None).abs().amax(dim=-1) * shrink
        return Steps(scale=_round_up(reach / _E4M3_HIGHEST, torch.bfloat16))

    def snap(self, units: Tensor) -> Tensor:
        clamped = units.clamp(-_E4M3_HIGHEST, _E4M3_HIGHEST)
        return clamped.to(torch.float8_e4m3fn).float()


def global_scale(largest: float) -> float:
    """By what NVFP4 multiplies its scales, so that those of numbers up to `largest` fit an e4m3."""
    most = float(torch.finfo(torch.float32).max)
    return min(_E4M3_HIGHEST * E2M1[-1] / max(largest, 1 / most), most)


def nearest(weight: Tensor, grid: Grid, steps: Steps | None = None) -> Codes:
    """Round each weight alone. Raises ValueError for a weight that has no codes."""
    steps = steps or grid.fit(weight)
    size, zero = steps.of_columns(weight.shape[1])
    return Codes(codes=grid.snap(weight.detach().float() / size + zero), steps=steps)


def grouped(weight: Tensor, group_size: int | None) -> Tensor:
    """The weight as float32 `(out, groups, group_size)`, or one sentence that refuses it."""
    if weight.ndim != 2:
        raise ValueError(
            f"Only matrices can be quantized in groups, this weight has the shape "
            f"{tuple(weight.shape)}: leave it in full precision."
        )
    group_size = weight.shape[1] if group_size is None else group_size
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


def _nearest_e2m1(units: Tensor) -> Tensor:
    """Ties go to the even mantissa, as IEEE 754 rounds."""
    sizes = units.abs().clamp(max=E2M1[-1])
    # Steps of a half below 2, of one below 4, of two above: each is rounding to an integer.
    step = torch.where(sizes < 2, 0.5, torch.where(sizes < 4, 1.0, 2.0))
    return torch.copysign(torch.round(sizes / step) * step, units)


def _round_up(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of `dtype` that is at least `scale`, and never zero or subnormal."""
    floor = torch.finfo(dtype).smallest_normal
    stored = scale.clamp(min=floor).to(dtype)
    above = torch.nextafter(stored, torch.full_like(stored, torch.inf))
    return torch.where(stored.float() < scale, above, stored)
