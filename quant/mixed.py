"""Chooses which layers stay in 16 bits, under a budget of bytes or of KL divergence.

Comes in: what the model loses by each unit of layers, and budgets. Goes out: a `Choice`. Pure: it
refuses to know models, files and how losses were measured. What is chosen is the best choice there
is, given that the losses of units add up, which they nearly do while they are small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import QuantizeError

if TYPE_CHECKING:
    from .sensitivity import Sensitivity

CELLS = 65536
"""Bytes are counted in parts of this fineness where layers share no greater part."""
_FINE = 2**50
"""The loss of all units together, in whole numbers, so that sums are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What stays in 16 bits, and what to expect of it."""

    units: tuple[str, ...]
    """Names of the units that stay."""
    kept: tuple[str, ...]
    """Full names of their layers."""
    size: int
    """Bytes of the folder."""
    kl: float
    """Nats a token from the 16-bit model."""


def choose(
    sensitivities: Sequence[Sensitivity],
    *,
    size_budget: float | None,
    kl_budget: float | None,
    bytes_parent: int,
    bytes_smallest: int,
    kl_all: float | None,
) -> Choice:
    """With a size budget, a part of `bytes_parent`: the least KL that fits. With a KL budget: the
    fewest bytes that keep it, and with both these must fit. Without either nothing stays.

    `bytes_smallest` is the folder with every unit quantized, `kl_all` its measured KL: the units'
    own are scaled to make it up together; None: they are taken as they are. Raises QuantizeError,
    one sentence with the nearest that is possible.
    """
    refuse_budgets(size_budget, kl_budget)
    table = _Table(sensitivities, kl_all)
    room = None if size_budget is None else int(size_budget * bytes_parent) - bytes_smallest
    if room is not None and room < 0:
        least = _part(bytes_smallest, bytes_parent)
        raise QuantizeError(
            f"With every layer quantized the folder takes {least} of its 16-bit size, more than "
            f"the size budget of {size_budget:g}: give {least} or more."
        )
    if kl_budget is not None:
        cell = table.least_cell(kl_budget)
    else:
        cell = 0 if room is None else table.last_cell(room)
    taken = table.taken(cell)
    choice = _choice(sensitivities, taken, bytes_smallest, table)
    if room is not None and choice.size > bytes_smallest + room:
        best = _choice(sensitivities, table.taken(table.last_cell(room)), bytes_smallest, table)
        needed = _part(choice.size, bytes_parent)
        raise QuantizeError(
            f"A KL of at most {kl_budget:g} takes {needed} of the 16-bit size, more than the size "
            f"budget of {size_budget:g}: give a size budget of {needed}, or a KL budget of "
            f"{_up(best.kl)}."
        )
    return choice


class _Table:
    """The most loss that can be taken back for each number of bytes (the knapsack problem, by
    dynamic programming)."""

    def __init__(self, units: Sequence[Sensitivity], kl_all: float | None) -> None:
        whole = math.fsum(unit.kl for unit in units)
        self._losses = [math.ceil(unit.kl / whole * _FINE) if whole else 0 for unit in units]
        self._whole = kl_all if kl_all is not None and whole else whole
        sizes = [max(0, unit.saved_bytes) for unit in units]
        self._cell_bytes = max(1, math.gcd(*sizes), -(-sum(sizes) // CELLS))
        self._cells = [-(-size // self._cell_bytes) for size in sizes]  # up: never over a budget
        count = sum(self._cells) + 1
        self._back = np.zeros(count, dtype=np.int64)
        """For each number of cells, the most loss that so many or fewer take back."""
        self._takes = np.zeros((len(units), count), dtype=bool)
        for number, (cells, loss) in enumerate(zip(self._cells, self._losses, strict=True)):
            with_it = np.full(count, -1, dtype=np.int64)
            with_it[cells:] = self._back[: count - cells] + loss
            self._takes[number] = with_it > self._back
            self._back = np.maximum(self._back, with_it)

    def last_cell(self, room: int) -> int:
        """Cells that fit into so many bytes."""
        return min(room // self._cell_bytes, len(self._back) - 1)

    def least_cell(self, kl_budget: float) -> int:
        """The fewest that bring the loss within the budget; all of them leave none."""
        whole = sum(self._losses)
        low, high = 0, len(self._back) - 1
        while low < high:
            middle = (low + high) // 2
            if self._kl(whole - int(self._back[middle])) <= kl_budget:
                high = middle
            else:
                low = middle + 1
        return low

    def taken(self, cell: int) -> list[bool]:
        """Which units stay, for so many cells."""
        found = [False] * len(self._cells)
        for number in reversed(range(len(found))):
            if self._takes[number, cell]:
                found[number] = True
                cell -= self._cells[number]
        return found

    def left(self, taken: Sequence[bool]) -> float:
        """The KL that is to be expected."""
        parts = zip(self._losses, taken, strict=True)
        return self._kl(sum(loss for loss, stays in parts if not stays))

    def _kl(self, loss: int) -> float:
        return self._whole * (loss / (sum(self._losses) or 1))


def _choice(
    units: Sequence[Sensitivity], taken: Sequence[bool], bytes_smallest: int, table: _Table
) -> Choice:
    stay = [unit for unit, stays in zip(units, taken, strict=True) if stays]
    return Choice(
        units=tuple(unit.name for unit in stay),
        kept=tuple(name for unit in stay for name in unit.layers),
        size=bytes_smallest + sum(unit.saved_bytes for unit in stay),
        kl=table.left(taken),
    )


def refuse_budgets(size_budget: float | None, kl_budget: float | None) -> None:
    """Raises QuantizeError for a budget that nothing can keep."""
    if size_budget is not None and not 0 < size_budget <= 1:
        raise QuantizeError(
            f"A size budget is a part of the 16-bit folder's size, above 0 and at most 1, not "
            f"{size_budget:g}."
        )
    if kl_budget is not None and not 0 <= kl_budget < math.inf:
        raise QuantizeError(f"A KL budget is a number of nats, 0 or more, not {kl_budget:g}.")


def _part(size: int, bytes_parent: int) -> str:
    return _up(size / bytes_parent) if size < bytes_parent * 0.999 else "1"


def _up(value: float) -> str:
    """Three digits, rounded up, so that who gives it as a budget gets by."""
    if value <= 0:
        return "0"
    digits = 10 ** (2 - math.floor(math.log10(value)))
    return f"{math.ceil(value * digits * (1 + 1e-9)) / digits:.6g}"
