"""Depth pruning: the student is some of the teacher's layers.

Comes in: the teacher's model and a recipe. Goes out: the same model with the layers that stay.
Which stay is written in the recipe, spaced evenly, or decided by block influence: a layer that
hardly turns what passes through it is hardly missed (ShortGPT, Men et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe

from . import base
from .measure import block_influence


def prune(model: Any, keep: Sequence[int]) -> Any:
    """The model, changed in place, with only these layers."""
    layers = [layers_of(model)[place] for place in keep]
    model.model.layers = nn.ModuleList(layers)
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # its place in the KV cache
                module.layer_idx = place
    for name, value in base.by_layer(model.config).items():
        setattr(model.config, name, [value[place] for place in keep])
    model.config.num_hidden_layers = len(layers)
    return model


def layers_of(model: Any) -> Any:
    """The teacher's layers. Raises DistillError for a family that has them elsewhere."""
    layers = getattr(model.model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != model.config.num_hidden_layers:
        raise DistillError(
            f"Pruning does not find the layers of a {model.config.model_type}: take a teacher like "
            "Llama, Qwen or Mistral, or a student of shape 'scratch' or 'model'."
        )
    return layers


def chosen(recipe: StudentRecipe, model: Any, rows: Sequence[Tensor], count: int) -> list[int]:
    """The layers that stay: `count` of them, unless the recipe names them itself."""
    total = len(layers_of(model))
    if recipe.keep or recipe.importance == "even":
        return list(recipe.keep) or evenly(total, count)
    influence = block_influence(model, rows)
    most = torch.topk(influence, count).indices
    return sorted(int(place) for place in most)


def counted(recipe: StudentRecipe, total: int, default: int) -> int:
    """How many layers stay. Raises DistillError where the recipe asks for what is not there."""
    keep = recipe.keep
    if keep and (sorted(set(keep)) != list(keep) or keep[-1] >= total):
        raise DistillError(
            f"student.keep is {list(keep)} and the teacher has layers 0 to {total - 1}: name each "
            "of those that stay once, in order."
        )
    if keep and recipe.layers not in (None, len(keep)):
        raise DistillError(
            f"student.layers is {recipe.layers} and student.keep names {len(keep)}: leave one out."
        )
    count = len(keep) or recipe.layers or default
    if count > total:
        raise DistillError(
            f"student.layers is {count} and the teacher has {total}: pruning only takes away."
        )
    return count


def evenly(total: int, count: int) -> list[int]:
    """So many layers, evenly spaced from the first, and the last."""
    return [place * total // count for place in range(count - 1)] + [total - 1]
