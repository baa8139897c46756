"""Which of the machines that schemes are made for this one is.

Comes in: this machine. Goes out: its name in `schemes/base.py`, or None for one that is none of
them. It refuses to know schemes.
"""

from __future__ import annotations

from senryu.server.device import detect

from .schemes.base import Machine

_GENERATIONS: tuple[tuple[tuple[int, int], Machine], ...] = (
    ((10, 0), "blackwell"),
    ((9, 0), "hopper"),
    ((8, 9), "ada"),
    ((8, 0), "ampere"),
)
"""The compute capability that each of NVIDIA's generations begins with."""


def this_machine() -> Machine | None:
    """Where `senryu serve` would run here; None where that cannot be told."""
    try:
        if detect().kind == "cpu":
            return "cpu"
    except ValueError:  # a setting that serving will refuse
        return None
    import torch

    if not torch.cuda.is_available():  # a GPU beside a torch that is built for CPUs
        return None
    return generation(torch.cuda.get_device_capability())


def generation(capability: tuple[int, int]) -> Machine | None:
    """NVIDIA's generation with this compute capability; None for those before Ampere."""
    return next((name for first, name in _GENERATIONS if capability >= first), None)
