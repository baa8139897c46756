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

from senryu.distill.encode import same_tokens
from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe, TrainRecipe
from senryu.distill.samples import Sample

from . import base, existing, memory, scratch, shared_ffn
from .memory import refuse_large, unmade

# Shapes that are made of the teacher's weights.
_PRUNED = ("depth", "width")

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
    refuse_large(_planned(recipe, config), opened=config if recipe.shape in _PRUNED else None)
    match recipe.shape:
        case "model":
            model = existing.open_weights(folder)
        case "depth":
            model = _depth(recipe, folder, config, calibration)
        case "width":
            model = _width(recipe, folder, config, calibration)
        case "layerwise":
            model = _layerwise().build(recipe, config, seed=seed)
        case "shared-ffn":
            model = shared_ffn.build(recipe, config, seed=seed)
        case "scratch":
            model = scratch.build(recipe, config, seed=seed)
    base.refuse_hidden_layers(model)
    return model, tokenizer


def refuse_student(recipe: StudentRecipe, train: TrainRecipe, teacher_folder: Path | None) -> None:
    """Raises DistillError where `build_student` would, or where the student could not be trained
    here, as far as configs tell it: no weights are opened. For before the teacher is asked."""
    _refuse_unused(recipe)
    folder = _folder(recipe, teacher_folder)
    config = base.open_config(folder)
    base.open_tokenizer(folder)
    if teacher_folder is not None:
        _refuse_strangers(recipe, train, folder, teacher_folder)
    planned = _planned(recipe, config)
    base.refuse_hidden_layers(unmade(planned))
    beside = train.hidden_weight > 0 or train.on_policy > 0
    refuse_large(
        planned,
        memory.free_memory(early=True),
        average=train.ema > 0,
        beside=base.open_config(teacher_folder) if beside and teacher_folder else None,
        opened=config if recipe.shape in _PRUNED else None,
    )


def _refuse_strangers(
    recipe: StudentRecipe, train: TrainRecipe, folder: Path, teacher: Path
) -> None:
    """A student that reads other tokens than its teacher can learn its text alone."""
    if recipe.model is None or folder == teacher or same_tokens(folder, teacher):
        return
    if recipe.shape != "model":
        raise DistillError(
            f"student.model ({recipe.model}) reads other tokens than the teacher, and a student of "
            f"shape {recipe.shape!r} learns the teacher's: leave student.model out."
        )
    if train.loss != "sft" or train.on_policy or train.hidden_weight:
        raise DistillError(
            f"student.model ({recipe.model}) reads other tokens than the teacher, so that only its "
            "text can be learnt: set train.loss = 'sft' and leave out train.on_policy and "
            "train.hidden_weight, or take a student with the teacher's tokenizer."
        )


def _planned(recipe: StudentRecipe, config: Any) -> Any:
    """The student's config. Raises DistillError."""
    from . import depth, width
    from .sizes import pruned, sizes_of

    total = config.num_hidden_layers
    match recipe.shape:
        case "depth":
            count = depth.counted(recipe, total, default=max(1, total // 3))
            return base.changed_config(config, {"num_hidden_layers": count})
        case "width":
            width.refuse_family(config)
            sizes = pruned(recipe, sizes_of(config))
            count = depth.counted(recipe, total, default=total)
            return width.planned(config, range(count), sizes)
        case "layerwise":
            return _layerwise().planned(recipe, config)
        case "shared-ffn":
            return shared_ffn.planned(recipe, config)
        case "scratch":
            return scratch.planned(recipe, config)
    return config


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
    if recipe.shape in _PRUNED:
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

    count = _planned(recipe, config).num_hidden_layers
    rows = rows_of(samples) if recipe.importance == "block" and not recipe.keep else []
    model = base.open_weights(folder, config)
    return depth.prune(model, depth.chosen(recipe, model, rows, count))


def _width(recipe: StudentRecipe, folder: Path, config: Any, samples: Iterable[Sample]) -> Any:
    from . import depth, measure, width
    from .sizes import sizes_of

    planned = _planned(recipe, config)
    rows = measure.rows_of(samples)
    model = base.open_weights(folder, config)
    keep = depth.chosen(recipe, model, rows, planned.num_hidden_layers)
    return width.prune(model, keep, sizes_of(planned), measure.importance(model, rows))


def _layerwise() -> Any:
    """The shape's file, which opens transformers' Llama."""
    from . import layerwise

    layerwise.register_model()
    return layerwise
