"""One feed-forward layer for all layers (MobiLlama, Thawakar et al. 2024), from random weights.

The layers share one module while it is trained, so that a step moves it once for all of them. No
engine knows of such a model: in its folder each layer has a copy, and the manifest says so.
"""

from __future__ import annotations

from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe

from . import scratch

planned = scratch.planned


def build(recipe: StudentRecipe, config: Any, *, seed: int) -> Any:
    """The student in float32, of random weights."""
    model = scratch.build(recipe, config, seed=seed)
    layers = getattr(model.model, "layers", ())
    if not layers or any(not hasattr(layer, "mlp") for layer in layers):
        raise DistillError(
            f"The layers of a {config.model_type} have no feed-forward layer that could be shared: "
            "take a teacher like Llama, Qwen or Mistral."
        )
    for layer in layers:
        layer.mlp = layers[0].mlp
    return model


def note(model: Any) -> str:
    """What the manifest says of the copies."""
    trained = sum(weight.numel() for weight in model.parameters())
    layers = len(model.model.layers)
    return (
        f"Trained with one feed-forward layer that all {layers} layers share, {trained:,} weights "
        "in all; the folder holds a copy for each layer, because the engine knows no shared one."
    )
