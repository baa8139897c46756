"""fp8: 8-bit floats with a scale a row; inputs become 8-bit floats with a scale a token.

Nearly nothing is lost and nothing has to be seen of the model, so weights are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Scheme:
    name: str = "fp8"
    runs_on: tuple[Machine, ...] = ("ampere", "ada", "hopper", "blackwell")
    """Ampere has no 8-bit floats: there vLLM's kernel leaves inputs in 16 bits."""
    multiple: int = 16
    group_size: None = None
    calibrated: bool = False
    made: str = "Rounded to nearest, 8-bit floats, a scale a row, inputs by token."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        return {}

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        from .rounding import rounded

        return rounded(weights, self._grid(), None, self._description())

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from senryu.quant.packing import config

        told: dict[str, Any] = config(self._description(), kept)
        return told

    def _description(self) -> Any:
        from senryu.quant.packing import with_inputs

        return with_inputs(self._grid(), "fp8")

    def _grid(self) -> Any:
        from senryu.quant.grids import Fp8

        return Fp8()
