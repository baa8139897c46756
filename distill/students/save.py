"""Writes a trained student as a model folder that vLLM serves, whole or not at all.

Comes in: the model, its tokenizer and the recipe it was made by. Goes out: bf16 safetensors,
config, tokenizer with chat template, and a manifest that carries the teacher's licence. It refuses
to know how the student was trained.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import Recipe
from senryu.quant.once import make_once
from senryu.quant.progress import Progress, Silent
from senryu.server.manifest import Manifest, describe_folder, record_files


def save_student(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    recipe: Recipe,
    teacher_folder: Path | None,
    recipe_digest: str | None = None,
    notes: Sequence[str] = (),
    state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the folder, in place of one that is there, and return its manifest.

    `state` are the weights where the model's own are not the ones to keep, or are spread over
    several processes. Raises DistillError when the disk does not take it.
    """
    weights = _in_bf16(model, model.state_dict() if state is None else state)
    parameters = sum(weight.numel() for weight in weights.values())

    def fill(partial: Path) -> None:
        _write(model, tokenizer, partial, weights)
        _manifest(
            recipe, teacher_folder, parameters, record_files(partial), recipe_digest, _notes()
        ).write(partial)

    def _notes() -> tuple[str, ...]:
        if recipe.student.shape != "shared-ffn":
            return tuple(notes)
        from . import shared_ffn

        return (*notes, shared_ffn.note(model))

    try:
        make_once(folder.absolute(), fill, progress or Silent(), again=True)
    except Exception as problem:
        if not _of_the_disk(problem):
            raise
        raise DistillError(
            f"The student cannot be written to {folder} ({_said(problem)}): make room there and "
            "run the same command again."
        ) from problem
    written = Manifest.read(folder)
    assert written is not None
    return written


def model_id(recipe: Recipe, teacher: Manifest | None) -> str:
    """The name that clients see."""
    if recipe.student.name:
        return recipe.student.name
    of = teacher.model_id if teacher is not None else recipe.teacher.model
    return f"{of.rstrip('/').rpartition('/')[2]}-{recipe.student.shape}"


def _in_bf16(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Copies in bf16, so that no two share memory; without those that the config says are tied."""
    import torch

    tied = getattr(model, "all_tied_weights_keys", {}) if model.config.tie_word_embeddings else {}
    return {
        name: weight.detach().to("cpu", torch.bfloat16, copy=True).contiguous()
        for name, weight in state.items()
        if name not in tied
    }


def _write(model: Any, tokenizer: Any, folder: Path, weights: Mapping[str, Any]) -> None:
    from senryu.quant.export import no_bars

    with no_bars():
        model.save_pretrained(folder, state_dict=dict(weights))
        # A dictionary of templates would make a folder in the folder.
        in_files = isinstance(tokenizer.chat_template, str)
        tokenizer.save_pretrained(folder, save_jinja_files=in_files)
    file = folder / "config.json"  # it tells what the model is in memory, which is float32
    config = json.loads(file.read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _manifest(
    recipe: Recipe,
    teacher_folder: Path | None,
    parameters: int,
    files: Mapping[str, Any],
    digest: str | None,
    notes: tuple[str, ...],
) -> Manifest:
    teacher = describe_folder(teacher_folder) if teacher_folder is not None else None
    name = teacher.display_name if teacher is not None else recipe.teacher.model
    own = model_id(recipe, teacher)
    return Manifest(
        model_id=own,
        display_name=own.rpartition("/")[2],
        source=f"distilled from {name} (shape {recipe.student.shape})",
        licence=recipe.teacher.licence,
        scheme="bf16",
        group_size=None,
        parameters=parameters,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=files,
        recipe_digest=digest,
        # Of a student with a template of its own, its own template tells.
        dialect=teacher.dialect if teacher and recipe.student.model is None else None,
        notes=(f"The teacher's terms on training: {recipe.teacher.terms}", *notes),
    )


def _of_the_disk(problem: Exception) -> bool:
    if isinstance(problem, OSError):
        return problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
    # safetensors wraps the system's error into its own and keeps only the words.
    return type(problem).__name__ == "SafetensorError" and "os error" in str(problem).lower()


def _said(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.errno is not None:
        return os.strerror(problem.errno).lower()
    return str(problem)
