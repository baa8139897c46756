"""How the learning rate goes: up, level, down. Pure.

Comes in: a step and how many there are. Goes out: a factor of the recipe's learning rate. It
refuses to know the optimizer.
"""

from __future__ import annotations

LAST = 0.1
"""What is left of the rate after the last step."""


def factor(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """The factor at a step, which count from 0; `warmup` and `decay` are shares of all steps."""
    rising = (step + 1) / (round(warmup * steps) + 1)
    left = (steps - step) / (decay * steps) if decay else 1.0
    falling = LAST + (1 - LAST) * left
    return min(1.0, rising, falling)
