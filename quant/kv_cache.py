"""Keys and values in 8-bit floats: the scales that a folder carries, and what it says of them.

Comes in: the greatest key and value that an attention layer wrote, after norms and rotation, as
they lie in the cache. Goes out: its scales, and the `kv_cache_scheme` of the config. Pure: it
refuses to know how the greatest were found. A folder that has them makes vLLM keep its cache in 8
bits unless it is told otherwise, which is half the memory a token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .schemes.base import Machine

RUNS_ON: tuple[Machine, ...] = ("cpu", "ampere", "ada", "hopper", "blackwell")
"""Where vLLM has an attention kernel for it. On CPUs with AVX-512 or AMX and heads of a multiple of
32; on Ampere with heads of 64, 128 or 256, through FlashInfer."""
_E4M3_HIGHEST = 448.0


def kv_scales(largest_key: float, largest_value: float) -> dict[str, Tensor]:
    """Tensors by the names that follow the attention's own, as in `layers.0.self_attn.k_scale`:
    what each key and value is divided by. Raises ValueError, half a sentence, where the cache would
    hold no numbers."""
    import torch

    scales = {}
    for name, largest in (("k_scale", largest_key), ("v_scale", largest_value)):
        if not (math.isfinite(largest) and largest >= 0):
            raise ValueError("what attention wrote holds infinite or undefined numbers")
        # A scale of 0 would mean to vLLM that there is none.
        scales[name] = torch.tensor([largest / _E4M3_HIGHEST if largest > 0 else 1.0])
    return scales


def scheme() -> dict[str, Any]:
    """`kv_cache_scheme` of the config: one scale for all keys of a layer and one for all values,
    which is what all of vLLM's attention kernels read."""
    from compressed_tensors.quantization import QuantizationArgs

    told = QuantizationArgs(
        num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False
    )
    return dict(told.model_dump(mode="json"))
