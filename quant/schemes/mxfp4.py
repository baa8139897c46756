"""mxfp4: 4-bit floats in groups of 32 with powers of two as scales (OCP Microscaling 1.0).

`mxfp4` rounds what layers read to the same numbers while the model runs, `mxfp4a16` leaves that in
16 bits. vLLM does not tell them apart: it rounds inputs where it has a kernel for that, which is on
Blackwell, and nowhere else. So each name is promised only where it is what happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class MxFp4Scheme:
    activations: bool = True
    """Whether what layers read is rounded as well."""
    rounding: Literal["gptq", "nearest"] = "gptq"
    multiple: int = 32
    group_size: int = 32

    @property
    def name(self) -> str:
        return "mxfp4" if self.activations else "mxfp4a16"

    @property
    def runs_on(self) -> tuple[Machine, ...]:
        return ("blackwell",) if self.activations else ("ampere", "ada", "hopper")

    @property
    def calibrated(self) -> bool:
        return self.rounding == "gptq"

    @property
    def made(self) -> str:
        way = "by GPTQ" if self.rounding == "gptq" else "to nearest"
        inputs = "inputs in MXFP4 too" if self.activations else "inputs in 16 bits"
        return f"Rounded {way}, MXFP4, groups of {self.group_size}, {inputs}."

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
        from senryu.quant.packing import weights_only, with_inputs

        grid = self._grid()
        return with_inputs(grid, "mxfp4") if self.activations else weights_only(grid)

    def _grid(self) -> Any:
        from senryu.quant.grids import MxFp4

        return MxFp4()
