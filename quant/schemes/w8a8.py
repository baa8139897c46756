"""w8a8: 8-bit integers with a scale a row; inputs become 8-bit integers with a scale a token.

What makes that hard are the few features of an input that are far greater than the rest, since all
features of a token share its scale. SmoothQuant moves part of their size into the weights first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8:
    """Raises ValueError for a smoothing that is no share."""

    rounding: Literal["gptq", "nearest"] = "gptq"
    smoothing: float = 0.5
    """The share of an outlier's size that moves into the weights; 0 turns SmoothQuant off."""
    name: str = "w8a8"
    runs_on: tuple[Machine, ...] = ("cpu", "ampere", "ada", "hopper")
    """Not on Blackwell: vLLM takes a kernel there that refuses integers when it runs."""
    multiple: int = 16
    group_size: None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"a smoothing of {self.smoothing} is not at least 0 and below 1")

    @property
    def calibrated(self) -> bool:
        return self.rounding == "gptq" or self.smoothing > 0

    @property
    def made(self) -> str:
        way = "by GPTQ" if self.rounding == "gptq" else "to nearest"
        smooth = f" after SmoothQuant {self.smoothing:g}" if self.smoothing else ""
        return f"Rounded {way}{smooth}, 8-bit integers, a scale a row, inputs by token."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        if self.smoothing == 0:
            return {}
        from senryu.quant.balance import smooth

        moved: Mapping[str, Tensor] = smooth(layer, reads, self.smoothing)
        return moved

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        from .rounding import rounded

        chosen = read if self.rounding == "gptq" else None
        return rounded(weights, self._grid(), chosen, self._description())

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from senryu.quant.packing import config

        told: dict[str, Any] = config(self._description(), kept)
        return told

    def _description(self) -> Any:
        from senryu.quant.packing import with_inputs

        return with_inputs(self._grid(), "int8")

    def _grid(self) -> Any:
        import torch

        from senryu.quant.grids import Integers

        return Integers(width=8, symmetric=True, group_size=None, scale_type=torch.float32)
