"""The optimizers of a recipe, and a moving average of what they make.

Comes in: a student's weights and the recipe. Goes out: torch's own optimizers. It refuses to know
the loss and the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .recipe import TrainRecipe


def make(
    weights: Sequence[nn.Parameter], layers: Sequence[nn.Module], recipe: TrainRecipe
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the layers and AdamW for the rest. Vectors
    (norms, biases) do not decay."""
    inner: set[int] = set()
    if recipe.optimizer == "muon":
        inner = {id(p) for layer in layers for p in layer.parameters() if p.ndim == 2}
    rest = [each for each in weights if id(each) not in inner]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made: list[Any] = [
        torch.optim.AdamW(
            [each for each in groups if each["params"]],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            fused=True,
        )
    ]
    if inner:
        made.append(
            torch.optim.Muon(
                [each for each in weights if id(each) in inner],
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",  # so that one learning rate suits both
            )
        )
    return made


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def ema_decay(ema: float, step: int) -> float:
    """The decay of the average at a step, which count from 0. It rises to `ema`: the student that
    training begins with, which can say nothing yet, is soon forgotten."""
    return min(ema, (1 + step) / (10 + step))


def follow(average: Sequence[torch.Tensor], weights: Sequence[nn.Parameter], decay: float) -> None:
    """Move the average a little towards the weights."""
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight.detach(), 1 - decay)
