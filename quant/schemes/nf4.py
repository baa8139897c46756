"""nf4: sixteen levels made for weights that are spread like a bell, as bitsandbytes stores them.

Blocks of 64 weights share a scale, and blocks of 256 scales share one again (double quantization).
Dettmers et al., "QLoRA", 2023 (arXiv 2305.14314). Nothing is calibrated: each weight goes to the
nearest level. vLLM loads the folder with the package `vllm-bnb-plugin`, and transformers loads it
as the frozen base of an adapter. The one file that imports bitsandbytes, which chooses the codes
and packs them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn

_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""vLLM asks for a kept layer by the name of the layer that it fuses it into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NF4:
    """4 bits a weight, and 0.127 for its scales."""

    name: str = "nf4"
    runs_on: tuple[Machine, ...] = ("cpu", "ampere", "ada", "hopper", "blackwell")
    multiple: int = 2  # two weights share a byte; blocks run on over the ends of rows
    group_size: int | None = 64
    calibrated: bool = False
    made: str = "Rounded to the nearest NF4 level, blocks of 64, scales in 8 bits."

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        return {}

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        return {name: _stored(weight) for name, weight in weights.items()}

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from transformers import BitsAndBytesConfig

        skipped = dict.fromkeys(kept)
        for name in kept:
            before, _, own = name.rpartition(".")
            if own in _FUSED:
                skipped[f"{before}.{_FUSED[own]}"] = None
        told: dict[str, Any] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype="bfloat16",
            llm_int8_skip_modules=list(skipped),
        ).to_dict()
        return {**told, "quant_method": "bitsandbytes"}


def values(tensors: Mapping[str, Tensor]) -> Tensor:
    """float32 `(out, in)`: what a layer's stored tensors, by their names here, stand for."""
    functional = _library()
    told = dict(tensors)
    packed = told.pop("weight")
    state = functional.QuantState.from_dict(told, device=packed.device)
    weight: Tensor = functional.dequantize_4bit(packed, state).float()
    return weight


def _stored(weight: Tensor) -> Stored:
    import torch

    if weight.ndim != 2 or weight.numel() % 2:
        raise ValueError(f"its shape {tuple(weight.shape)} does not fill whole bytes at 4 bits")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("it holds infinite or undefined numbers, so it has no 4-bit codes")
    # The type is stored with the codes, and engines compute the weight in it.
    half = weight.detach().to(torch.bfloat16).contiguous()
    packed, state = _library().quantize_4bit(
        half, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    told = state.as_dict(packed=True)
    tensors = {"weight": packed, **{f"weight.{name}": each for name, each in told.items()}}
    return Stored(tensors=tensors, values=values(tensors))


def _library() -> Any:
    """bitsandbytes' functions. At its import it may warn of a faster kernel for CPUs that it would
    fetch from a hub, which is no use to who only stores weights."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional
    finally:
        log.setLevel(level)
    return functional
