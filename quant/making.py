"""The order in which a model is made: layers, then the choice of what stays in 16 bits, then
training through the quantizer.

Comes in: a parent, a scheme and a recipe. Goes out: an engine's folder without its manifest, and
sentences for it. It refuses to know how any of the parts does its work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .assemble import assemble
from .errors import QuantizeError
from .folder import kept_layers
from .layers import Work, quantize_layers
from .parent import Parent, linear_layers
from .progress import Progress
from .recipe import QuantizeRecipe

if TYPE_CHECKING:
    from .calibration import CalibrationSet
    from .schemes.base import Scheme


def units(parent: Parent, recipe: QuantizeRecipe) -> int:
    """Of progress: a layer each, a step of training each, and the writing."""
    from .training import steps

    return int(parent.config.num_hidden_layers) + steps(recipe) + 1


def parameters(parent: Parent) -> int:
    """Weights of the model, those that are shared counted once."""
    return sum(weight.numel() for weight in parent.skeleton().parameters())


def make(
    folder: Path,
    parent: Parent,
    scheme: Scheme,
    recipe: QuantizeRecipe,
    calibration: CalibrationSet | None,
    digest: str,
    work: Path,
    progress: Progress,
) -> list[str]:
    """Fill `folder`. Raises QuantizeError."""
    names = linear_layers(parent.skeleton())
    kept = kept_layers(names, recipe)
    place = Work(work)
    notes = [scheme.made]
    tokens = None if calibration is None else _tokens(calibration, recipe)
    watch = recipe.scheme.kv_cache == "fp8"
    if hasattr(scheme, "codes"):
        from .whole import quantize_whole

        quantize_whole(parent, scheme, tokens, place, digest, progress, kept=kept)
    else:
        read = tokens if scheme.calibrated or watch else None
        quantize_layers(parent, scheme, read, place, digest, progress, kept=kept, watch=watch)
    layers = [place.layer(index) for index in range(parent.config.num_hidden_layers)]
    more, kv_cache = _kv_cache(layers) if watch else ({}, None)

    def write(files: list[Path]) -> None:
        told = scheme.config([*sorted(kept), "lm_head"])
        if kv_cache is not None:
            told["kv_cache_scheme"] = kv_cache
        assemble(folder, parent, files, told, kept=kept, more=more)

    progress.stage("write")
    write(layers)
    if recipe.mixed.size_budget is not None or recipe.mixed.kl_budget is not None:
        from .mixing import keep_more

        progress.stage("measure what each layer loses")
        more_kept, note = keep_more(folder, parent, recipe, names, kept)
        kept = kept | more_kept
        notes.append(note)
        write(layers)
    if recipe.qad.tokens:
        from .training import train

        progress.stage("distil through the quantizer")
        layers, trained, note = train(
            folder, parent, scheme, recipe, layers, place, progress, kept=kept
        )
        more = {**more, **trained}
        notes.append(note)
        write(layers)
    progress.done()
    return notes


def _tokens(calibration: CalibrationSet, recipe: QuantizeRecipe) -> Tensor:
    from .calibration import packed

    tokens = packed(calibration.sequences, recipe.calibration.length)
    if not len(tokens):
        raise QuantizeError(
            f"The calibration set {calibration.name} has {calibration.tokens} tokens, fewer than "
            f"one sequence of {recipe.calibration.length}: give a larger one or shorter sequences."
        )
    return tokens


def _kv_cache(layers: list[Path]) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Scales for a cache in 8 bits, from the greatest keys and values that were seen."""
    import json

    from safetensors import safe_open

    from .kv_cache import kv_scales, scheme

    scales: dict[str, Tensor] = {}
    for index, file in enumerate(layers):
        with safe_open(file, framework="pt") as stored:
            outputs = json.loads(stored.metadata()["outputs"])
        try:
            key, value = outputs["self_attn.k_proj"], outputs["self_attn.v_proj"]
        except KeyError:
            raise QuantizeError(
                "This model's attention has no layers k_proj and v_proj, so its cache cannot be "
                "measured: leave the KV cache in 16 bits."
            ) from None
        # Rotation by position mixes pairs of a key's features, which can add up to this much.
        found = kv_scales(key * 2**0.5, value)
        scales |= {f"model.layers.{index}.self_attn.{name}": each for name, each in found.items()}
    return scales, scheme()
