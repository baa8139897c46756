"""Builds the student that a recipe asks for.

Comes in: the recipe's `[student]`, the teacher's folder where there is one, and samples to measure
on. Goes out: a model in float32 with `.model` (gives hidden states) and `.lm_head`, and its
tokenizer. It refuses to know how any shape is made, and only chooses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.samples import Sample

from . import base, existing
from .memory import refuse_large

# The keys of a recipe that mean something to a shape. `shape` and `name` do to all.
_KEYS = {
    "depth": ("layers", "keep", "importance"),
    "width": ("layers", "keep", "importance", "hidden", "heads", "kv_heads", "ffn"),
    "scratch": ("model", "layers", "hidden", "heads", "kv_heads", "ffn"),
    "shared-ffn": ("model", "layers", "hidden", "heads", "kv_heads", "ffn"),
    "layerwise": ("model", "layers", "hidden", "heads", "ffn", "ffn_range", "kv_range"),
    "model": ("model",),
}


def build_student(
    recipe: StudentRecipe,
    teacher_folder: Path | None,
    *,
    calibration: Iterable[Sample] = (),
    seed: int,
) -> tuple[Any, Any]:
    """Model and tokenizer. `calibration` is read only by shapes that measure. The same recipe,
    samples and seed give the same weights. Raises DistillError."""
    _refuse_unused(recipe)
    folder = _folder(recipe, teacher_folder)
    config = base.open_config(folder)
    tokenizer = base.open_tokenizer(folder)
    match recipe.shape:
        case "model":
            refuse_large(config)
            return existing.open_model(folder)
        case "depth":
            return _depth(recipe, folder, config, calibration), tokenizer
        case "width":
            return _width(recipe, folder, config, calibration), tokenizer
        case "scratch" | "shared-ffn" | "layerwise":
            return _random(recipe, config, seed), tokenizer


def _refuse_unused(recipe: StudentRecipe) -> None:
    """What would be ignored is an error: a size that was asked for is not what comes out."""
    for each in dataclasses.fields(recipe):
        known = each.name in ("shape", "name", *_KEYS[recipe.shape])
        if not known and getattr(recipe, each.name) != each.default:
            shapes = [repr(shape) for shape, keys in _KEYS.items() if each.name in keys]
            raise DistillError(
                f"student.{each.name} means nothing to a student of shape {recipe.shape!r}, only "
                f"to {' or '.join(shapes)}: leave it out or change student.shape."
            )


def _folder(recipe: StudentRecipe, teacher: Path | None) -> Path:
    """Of the model whose weights, or whose tokenizer and proportions, the student takes."""
    if recipe.model is not None:
        return existing.find(recipe.model)
    if teacher is not None and recipe.shape != "model":
        return teacher
    if recipe.shape in ("depth", "width"):
        raise DistillError(
            f"A student of shape {recipe.shape!r} is made of the teacher's weights and this "
            "teacher is an endpoint: take student.shape = 'model' or 'scratch' with student.model."
        )
    raise DistillError(
        f"A student of shape {recipe.shape!r} needs student.model, the folder or hub id of a model "
        "whose tokenizer it takes: the teacher's is not here."
        if recipe.shape != "model"
        else "student.shape is 'model' and student.model is missing: give a folder or a hub id."
    )


def _depth(recipe: StudentRecipe, folder: Path, config: Any, samples: Iterable[Sample]) -> Any:
    from . import depth
    from .measure import rows_of

    total = config.num_hidden_layers
    count = depth.counted(recipe, total, default=max(1, total // 3))
    refuse_large(base.changed_config(config, {"num_hidden_layers": count}))
    measures = recipe.importance == "block" and not recipe.keep
    rows = rows_of(samples) if measures else []
    model = base.open_weights(folder, config)
    return depth.prune(model, depth.chosen(recipe, model, rows, count))


def _width(recipe: StudentRecipe, folder: Path, config: Any, samples: Iterable[Sample]) -> Any:
    from . import depth, measure, width
    from .sizes import pruned, sizes_of

    width.refuse_family(config)
    sizes = pruned(recipe, sizes_of(config))
    count = depth.counted(recipe, config.num_hidden_layers, default=config.num_hidden_layers)
    refuse_large(width.planned(config, range(count), sizes))
    rows = measure.rows_of(samples)
    model = base.open_weights(folder, config)
    keep = depth.chosen(recipe, model, rows, count)
    return width.prune(model, keep, sizes, measure.importance(model, rows))


def _random(recipe: StudentRecipe, config: Any, seed: int) -> Any:
    from . import layerwise, scratch, shared_ffn

    match recipe.shape:
        case "layerwise":
            layerwise.register_model()
            refuse_large(layerwise.planned(recipe, config))
            return layerwise.build(recipe, config, seed=seed)
        case "shared-ffn":
            refuse_large(shared_ffn.planned(recipe, config))
            return shared_ffn.build(recipe, config, seed=seed)
    refuse_large(scratch.planned(recipe, config))
    return scratch.build(recipe, config, seed=seed)
