"""Makes the embedded model, once, in the user's cache folder.

Comes in: a scheme, a cache folder and somebody to report to. Goes out: a finished model folder
with a manifest. It refuses to know how the file is read, how weights are rounded, how vLLM wants
them and what happens when two processes do this at once; it only puts those in order. torch is
imported when there is work, not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.server.manifest import Manifest, cache_folder, record_files

from . import gguf_model
from .once import make_once
from .progress import Progress, Silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from .export import W4A16

NAME = "smollm2-135m"
SCHEMES = ("w4a16", "bf16")
SPACE_NEEDED = 400 * 2**20
"""Bytes: the larger of the two folders is 273 MB, and a full disk makes other programs fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights: change any of it and the folder gets another name."""

    scheme: str
    group_size: int | None
    """32 is the smallest group that vLLM's kernels on the CPU and on GPUs have in common."""
    symmetric: bool | None
    rounding: str | None
    source_sha256: str = gguf_model.FILE_SHA256
    revision: int = 1
    """Raise it when the code behind the names above changes its results."""

    @property
    def digest(self) -> str:
        told = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        return f"{NAME}-{self.scheme}-{self.digest[:8]}"


RECIPES = {
    # Asymmetric: on our texts its KL to bf16 is 0.58, the symmetric grid's 0.71 (docs/lab-notes).
    "w4a16": Recipe(scheme="w4a16", group_size=32, symmetric=False, rounding="nearest"),
    "bf16": Recipe(scheme="bf16", group_size=None, symmetric=None, rounding=None),
}


class PreparationError(RuntimeError):
    """The model cannot be made here; the message is one sentence for the user."""


def prepare(
    cache: Path | None = None, *, scheme: str = "w4a16", progress: Progress | None = None
) -> Path:
    """The finished folder of the embedded model; makes it first if it is not there yet."""
    progress = progress or Silent()
    recipe = RECIPES[scheme]
    final = (cache or cache_folder()).absolute() / "models" / recipe.folder_name

    def fill(folder: Path) -> None:
        _refuse_small_disk(folder)
        _make(folder, recipe, progress)

    with _user_sentences(final.parent):
        return make_once(final, fill, progress)


def _make(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Fill `folder` with the finished model, its manifest last."""
    file = gguf_model.find_file()
    progress.say(f"Preparing {NAME} ({recipe.scheme}); this happens once and takes about a minute.")
    progress.begin(_units(recipe))
    progress.stage("start torch")
    from . import export

    progress.stage("read")
    gguf_model.check_file(file)
    model, tokenizer = gguf_model.load(file, told=lambda name: progress.done())
    parameters = sum(weight.numel() for weight in model.parameters())

    packed = None
    if recipe.group_size is not None:
        scheme = export.W4A16(group_size=recipe.group_size, symmetric=bool(recipe.symmetric))
        progress.stage("quantize")
        packed = _quantize(model, scheme, progress)
    progress.stage("write")
    export.save(folder, model, tokenizer, packed)
    progress.done()
    progress.stage("hash")
    _manifest(folder, recipe, parameters).write(folder)
    progress.done()


def _quantize(model: PreTrainedModel, scheme: W4A16, progress: Progress) -> Any:
    from . import export, rtn

    numbers = {name: number for number, name in enumerate(export.linear_layers(model), start=1)}

    def choose(name: str, weight: Tensor) -> rtn.GroupCodes:
        return rtn.quantize(weight, group_size=scheme.group_size, symmetric=scheme.symmetric)

    def told(name: str) -> None:
        progress.done(f"layer {numbers[name]}/{len(numbers)}")

    return export.pack(model, scheme, choose, told)


def _units(recipe: Recipe) -> int:
    """272 tensors to read, 210 layers to quantize, one write, one hash."""
    return 272 + (210 if recipe.group_size else 0) + 2


def _manifest(folder: Path, recipe: Recipe, parameters: int) -> Manifest:
    notes = ["The source stores 4-bit weights (Q4_1), which were unpacked to bf16 first."]
    if recipe.rounding:
        notes.append("Rounded to nearest, without calibration data; embeddings stay in bf16.")
    return Manifest(
        model_id=f"senryu/{NAME}",
        display_name="SmolLM2 135M Instruct",
        source=f"{gguf_model.PACKAGE} {gguf_model.PACKAGE_VERSION} ({gguf_model.ORIGINAL_MODEL})",
        licence=gguf_model.LICENCE,
        scheme=recipe.scheme,
        group_size=recipe.group_size,
        parameters=parameters,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=record_files(folder),
        recipe_digest=recipe.digest,
        notes=tuple(notes),
    )


def _refuse_small_disk(folder: Path) -> None:
    if shutil.disk_usage(folder).free < SPACE_NEEDED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _user_sentences(models: Path) -> Iterator[None]:
    """Turn what a disk or a missing package says into one sentence with a way out."""
    try:
        yield
    except gguf_model.SourceMissingError as problem:
        raise PreparationError(str(problem)) from problem
    except ModuleNotFoundError as problem:
        raise PreparationError(
            f"The package {problem.name} is needed to prepare a model: "
            f"run `make setup`, or install senryu with its extra `models`."
        ) from problem
    except Exception as problem:
        reason = _disk_problem(problem, models)
        if reason is None:
            raise
        raise PreparationError(
            f"The model cannot be written to {models} ({reason}): it needs {SPACE_NEEDED >> 20} "
            f"MB and your permission to write there, or set SENRYU_CACHE to another folder."
        ) from problem


def _disk_problem(problem: Exception, models: Path) -> str | None:
    """What the disk said about the models' folder; None when the problem is another one."""
    if isinstance(problem, OSError):
        return (problem.strerror or str(problem)).lower() if _concerns(problem, models) else None
    # safetensors wraps the system's error into its own and keeps only the words.
    if type(problem).__name__ == "SafetensorError" and "os error" in str(problem).lower():
        return str(problem)
    return None


def _concerns(problem: OSError, models: Path) -> bool:
    """Whether the error is about writing below `models`, not about some other file or socket."""
    if problem.errno is None or problem.filename is None:
        return problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    named = Path(os.fsdecode(problem.filename))
    return named.is_relative_to(models) or models.is_relative_to(named)
