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

WEIGHT = 4
"""Bytes of a weight in float32."""
BYTES = 4 * WEIGHT
"""Of a weight in training: itself, its gradient and AdamW's two moments."""


def refuse_large(
    config: Any,
    memory: int | None = None,
    *,
    average: bool = False,
    beside: Any = None,
    opened: Any = None,
) -> None:
    """Raises DistillError when a student of this config does not fit in what one process of the
    training may have: `memory` bytes, or what is free here.

    `average` says that a moving average of the weights is kept, `beside` is the config of a teacher
    that runs beside the student, `opened` that of a teacher whose weights it is made of.
    """
    weights = parameters(config)
    needed = _needed(weights * (BYTES + WEIGHT * average), weights)
    with_it = " with an average of its weights" if average else ""
    if beside is not None:
        needed += parameters(beside) * WEIGHT
        with_it += " and" * average + " with its teacher beside it"
    free = free_memory() if memory is None else memory
    if needed > free:
        raise DistillError(
            f"A student of {weights / 1e6:,.0f} million weights needs {needed / 2**30:.1f} GiB "
            f"to be trained{with_it} and {free / 2**30:.1f} GiB are free: make it smaller, or "
            "train it on a machine with more memory."
        )
    if opened is None:
        return
    needed, free = parameters(opened) * WEIGHT, free_ram()
    if needed > free:
        raise DistillError(
            f"A student is made of its teacher's weights in float32, which need "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: take a smaller "
            "teacher, student.shape = 'scratch' or 'model', or a machine with more memory."
        )


def _needed(trained: int, weights: int) -> int:
    """Bytes of one process, when `trained` bytes are spread over all of them."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return trained
    whole = weights * WEIGHT
    if detect().kind == "gpu":  # each GPU is given the whole student, and then keeps its part
        return max(whole, trained // world)
    return whole + max(whole, trained // world)  # each process keeps the one it was given as well


def parameters(config: Any) -> int:
    """How many weights a model of this config has; none of them is made."""
    return sum(weight.numel() for weight in unmade(config).parameters())


def unmade(config: Any) -> Any:
    """A model of this config with the shapes of its weights alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def free_memory(*, early: bool = False) -> int:
    """Bytes that training may have in one process: of its GPU, else of this machine.

    `early` asks for all that the GPU has, and does not begin to use it, which the teacher's engine
    is to do first.
    """
    device = detect()
    if device.kind == "cpu":
        return free_ram()
    if early:
        return device.memory or 2**63
    import torch

    return int(torch.cuda.mem_get_info(int(os.environ.get("LOCAL_RANK", "0")))[0])


def free_ram() -> int:
    """Bytes of this machine for one of the processes that train on it."""
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    available = next(line for line in told.splitlines() if line.startswith("MemAvailable:"))
    free = int(available.split()[1]) * 1024
    device = detect()
    if device.kind == "cpu" and device.memory:  # a container may be given less than the machine has
        free = min(free, device.memory)
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
