"""w4a8-fp8: 4-bit integers in groups of 128; inputs become 8-bit floats with a scale a token.

For Hopper alone, whose tensor cores compute in 8-bit floats: vLLM has this one kernel, which wants
the model in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class W4A8Fp8:
    rounding: Literal["gptq", "nearest"] = "gptq"
    name: str = "w4a8-fp8"
    runs_on: tuple[Machine, ...] = ("hopper",)
    multiple: int = 128
    group_size: int = 128

    @property
    def calibrated(self) -> bool:
        return self.rounding == "gptq"

    @property
    def made(self) -> str:
        way = "by GPTQ" if self.rounding == "gptq" else "to nearest"
        return f"Rounded {way}, 4 bits, symmetric, groups of {self.group_size}, inputs in fp8."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        return {}

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

        return with_inputs(self._grid(), "fp8")

    def _grid(self) -> Any:
        from senryu.quant.grids import RowScaledIntegers

        return RowScaledIntegers(symmetric=True, group_size=self.group_size)
