"""w4a16: 4-bit integers in groups, activations in 16 bits.

The scheme that runs everywhere: vLLM has a kernel for it on CPUs and on each GPU since Ampere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn

    from senryu.quant.grids import Codes, Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class W4A16:
    """Raises ValueError for a group size that no kernel takes."""

    group_size: int = 32
    """32 is the smallest that vLLM's kernels on the CPU and on GPUs have in common."""
    symmetric: bool = False
    rounding: Literal["gptq", "nearest"] = "gptq"
    scaling: Literal["none", "awq"] = "none"
    name: str = "w4a16"
    runs_on: tuple[Machine, ...] = ("cpu", "ampere", "ada", "hopper", "blackwell")
    multiple: int = 32

    def __post_init__(self) -> None:
        if self.group_size not in (32, 64, 128):
            raise ValueError(f"no kernel takes groups of {self.group_size}: choose 32, 64 or 128")

    @property
    def calibrated(self) -> bool:
        return self.rounding == "gptq" or self.scaling == "awq"

    @property
    def made(self) -> str:
        grid = "symmetric" if self.symmetric else "asymmetric"
        way = "by GPTQ" if self.rounding == "gptq" else "to nearest"
        scaled = " after AWQ scaling" if self.scaling == "awq" else ""
        return f"Rounded {way}{scaled}, 4 bits, {grid}, groups of {self.group_size}."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        if self.scaling == "none":
            return {}
        from senryu.quant.balance import awq

        moved: Mapping[str, Tensor] = awq(layer, reads, self.grid)
        return moved

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        from senryu.quant.packing import weights_only

        from .rounding import rounded

        chosen = read if self.rounding == "gptq" else None
        return rounded(weights, self.grid, chosen, weights_only(self.grid))

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from senryu.quant.packing import config, weights_only

        told: dict[str, Any] = config(weights_only(self.grid), kept)
        return told

    def pack(self, codes: Codes) -> dict[str, Tensor]:
        """The tensors of one layer whose codes were found elsewhere."""
        from senryu.quant.packing import pack, weights_only

        tensors: dict[str, Tensor] = pack(codes, weights_only(self.grid))
        return tensors

    @property
    def grid(self) -> Integers:
        """What weights are rounded to."""
        from senryu.quant.grids import Integers

        return Integers(symmetric=self.symmetric, group_size=self.group_size)
