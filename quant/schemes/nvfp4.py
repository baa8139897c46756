"""nvfp4: 4-bit floats in groups of 16 with scales of 8 bits, as NVIDIA's Blackwell computes them.

`nvfp4` rounds what layers read to the same numbers while the model runs, `nvfp4a16` leaves that in
16 bits. vLLM fuses the layers that read one input, and then has one number for all their scales and
one for their input: both are chosen over the layers that come to `store` together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class NvFp4Scheme:
    activations: bool = True
    """Whether what layers read is rounded as well."""
    rounding: Literal["gptq", "nearest"] = "gptq"
    runs_on: tuple[Machine, ...] = ("ampere", "ada", "hopper", "blackwell")
    """Before Blackwell there is a kernel that takes the weights and leaves inputs in 16 bits."""
    multiple: int = 32
    group_size: int = 16

    @property
    def name(self) -> str:
        return "nvfp4" if self.activations else "nvfp4a16"

    @property
    def calibrated(self) -> bool:
        return self.rounding == "gptq" or self.activations

    @property
    def made(self) -> str:
        way = "by GPTQ" if self.rounding == "gptq" else "to nearest"
        inputs = "inputs in NVFP4 too" if self.activations else "inputs in 16 bits"
        return f"Rounded {way}, NVFP4, groups of {self.group_size}, {inputs}."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        return {}

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        import torch

        from senryu.quant.grids import global_scale

        from .rounding import rounded

        chosen = read if self.rounding == "gptq" else None
        stored = rounded(weights, self._grid(), chosen, self._description())
        if not self.activations:
            return stored
        if read is None:
            raise ValueError(
                "nvfp4 needs to see what it reads: choose nvfp4a16 without calibration"
            )
        largest = float(read.largest.max())
        if not largest < float("inf"):  # NaN is not below it either
            raise ValueError("what it reads holds infinite or undefined numbers")
        whole = torch.tensor([global_scale(largest)])
        return {
            name: replace(each, tensors={**each.tensors, "input_global_scale": whole.clone()})
            for name, each in stored.items()
        }

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from senryu.quant.packing import config

        told: dict[str, Any] = config(self._description(), kept)
        return told

    def _description(self) -> Any:
        from senryu.quant.packing import weights_only, with_inputs

        grid = self._grid()
        return with_inputs(grid, "nvfp4") if self.activations else weights_only(grid)

    def _grid(self) -> Any:
        from senryu.quant.grids import NvFp4

        return NvFp4()
