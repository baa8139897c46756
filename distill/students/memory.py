"""Says no to a student that would not fit in memory while it is trained, before hours are spent.

Comes in: a config. Goes out: nothing, or DistillError.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.server.device import detect

BYTES = 16
"""A weight in training: itself, its gradient and AdamW's two moments, in float32 each."""


def refuse_large(config: Any, memory: int | None = None) -> None:
    """Raises DistillError when weights, gradients and moments need more than `memory` bytes; left
    out, what is free here."""
    weights = parameters(config)
    free = free_memory() if memory is None else memory
    if weights * BYTES > free:
        raise DistillError(
            f"A student of {weights / 1e6:,.0f} million weights needs "
            f"{weights * BYTES / 2**30:.1f} GiB to be trained and {free / 2**30:.1f} GiB are free: "
            "make it smaller, or train it on a machine with more memory."
        )


def parameters(config: Any) -> int:
    """How many weights a model of this config has; none of them is made."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    return sum(weight.numel() for weight in model.parameters())


def free_memory() -> int:
    """Bytes: of the GPUs that train together, else of this machine."""
    import torch

    if torch.cuda.is_available():
        ours = min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return sum(torch.cuda.mem_get_info(place)[0] for place in range(ours))
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    available = next(line for line in told.splitlines() if line.startswith("MemAvailable:"))
    # A container may be given less than the machine has.
    return min(int(available.split()[1]) * 1024, detect().memory or 2**63)
