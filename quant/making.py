"""The order in which a model is made: layers, then the choice of what stays in 16 bits, then
training through the quantizer.

Comes in: a parent, a scheme and a recipe. Goes out: an engine's folder without its manifest, and
sentences for it. It refuses to know how any of the parts does its work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .assemble import assemble
from .errors import QuantizeError
from .folder import kept_layers
from .layers import Work, quantize_layers
from .mixed import refuse_budgets
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Names of work: whoever finds another one there starts anew."""

    whole: str
    """Of everything that decides the result."""
    layers: str
    """Of what decides the layers before any goes back or is trained."""


def make(
    folder: Path,
    parent: Parent,
    scheme: Scheme,
    recipe: QuantizeRecipe,
    calibration: CalibrationSet | None,
    digests: Digests,
    work: Path,
    progress: Progress,
) -> list[str]:
    """Fill `folder`. Raises QuantizeError."""
    from .calibration import packed

    names = linear_layers(parent.skeleton())
    _refuse(parent, scheme, recipe, names)
    kept = kept_layers(names, recipe)
    place = Work(work)
    notes = [scheme.made]
    length = recipe.calibration.length
    tokens = None if calibration is None else packed(calibration.sequences, length)
    watch = recipe.scheme.kv_cache == "fp8"
    # Training alone wants the set too, and reads it itself.
    read = tokens if scheme.calibrated or watch else None
    if hasattr(scheme, "codes"):
        from .whole import quantize_whole

        quantize_whole(parent, scheme, tokens, place, digests.layers, progress, kept=kept)
    else:
        quantize_layers(
            parent, scheme, read, place, digests.layers, progress, kept=kept, watch=watch
        )
    layers = [place.layer(index) for index in range(parent.config.num_hidden_layers)]
    more, kv_cache = _kv_cache(layers) if watch else ({}, None)

    back: Collection[str] = ()

    def write() -> None:
        told = scheme.config([*sorted({*kept, *back}), "lm_head"])
        if kv_cache is not None:
            told["kv_cache_scheme"] = kv_cache
        assemble(folder, parent, layers, told, kept=back, more=more)

    progress.stage("write")
    write()
    if recipe.mixed.asked:
        from .mixing import keep_more

        def write_with(names: Collection[str]) -> None:
            nonlocal back
            back = names
            write()

        progress.stage("measure what each layer loses")
        back, note = keep_more(folder, parent, recipe, write_with, progress)
        notes.append(note)
    if recipe.qad.tokens:
        from .training import train

        progress.stage("distil through the quantizer")
        layers, trained, note = train(
            folder,
            parent,
            scheme,
            recipe,
            layers,
            place,
            digests.whole,
            progress,
            kept={*kept, *back},
        )
        more = {**more, **trained}
        notes.append(note)
        write()
    progress.done()
    return notes


def _refuse(parent: Parent, scheme: Any, recipe: QuantizeRecipe, names: list[str]) -> None:
    """Before any work, a recipe whose parts do not go together."""
    for key, value, least in (
        ("calibration.tokens", recipe.calibration.tokens, 1),
        ("calibration.length", recipe.calibration.length, 2),
        ("mixed.tokens", recipe.mixed.tokens, 2),
        ("qad.tokens", recipe.qad.tokens, 0),
        ("qad.sequence", recipe.qad.sequence, 2),
        ("qad.batch_tokens", recipe.qad.batch_tokens, 1),
    ):
        if value < least:
            raise QuantizeError(f"{key} is {value}; it takes {least} or more.")
    refuse_budgets(recipe.mixed.size_budget, recipe.mixed.kl_budget)
    if recipe.qad.tokens and not hasattr(scheme, "grid"):
        raise QuantizeError(
            f"{scheme.name} has no grid to train on: leave qad out, or quantize to w4a16."
        )
    moves = getattr(scheme, "scaling", "none") != "none" or getattr(scheme, "smoothing", 0)
    if recipe.mixed.asked and moves:
        raise QuantizeError(
            f"{scheme.name} moves scale between layers here, so none of them can be put back as "
            "it was: leave the budgets out, or choose w4a16 without scaling."
        )
    if recipe.scheme.kv_cache == "auto":
        return
    if hasattr(scheme, "codes") or scheme.config(())["quant_method"] != "compressed-tensors":
        raise QuantizeError(
            f"The scales of an 8-bit KV cache cannot be stored beside {scheme.name}: leave the KV "
            "cache in 16 bits, or quantize to w4a16."
        )
    for index in range(parent.config.num_hidden_layers):
        attention = f"model.layers.{index}.self_attn"
        if not {f"{attention}.k_proj", f"{attention}.v_proj"} <= set(names):
            raise QuantizeError(
                "This model's attention has no layers k_proj and v_proj, so its cache cannot be "
                "measured: leave the KV cache in 16 bits."
            )


def _kv_cache(layers: list[Path]) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Scales for a cache in 8 bits, from the greatest keys and values that were seen."""
    import json

    from safetensors import safe_open

    from .kv_cache import kv_scales, scheme

    scales: dict[str, Tensor] = {}
    for index, file in enumerate(layers):
        with safe_open(file, framework="pt") as stored:
            outputs = json.loads(stored.metadata()["outputs"])
        key, value = (
            outputs.get(f"self_attn.{one}_norm", outputs[f"self_attn.{one}_proj"]) for one in "kv"
        )
        # Rotation by position mixes pairs of a key's features, which can add up to this much.
        try:
            found = kv_scales(key * 2**0.5, value)
        except ValueError as problem:
            raise QuantizeError(f"Layer {index} cannot be quantized ({problem}).") from problem
        scales |= {f"model.layers.{index}.self_attn.{name}": each for name, each in found.items()}
    return scales, scheme()
