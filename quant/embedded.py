"""Makes the embedded model, once, in the user's cache folder.

Comes in: a scheme, a cache folder and somebody to report to. Goes out: a finished model folder
with a manifest. It refuses to know how the file is read, how weights are rounded, how vLLM wants
them and what happens when two processes do this at once; it only puts those in order. torch is
imported when there is work, not before.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from senryu.server.manifest import Manifest, cache_folder, record_files

from . import gguf_model
from .errors import QuantizeError
from .folder import source_digest
from .once import damage, make_once
from .progress import Progress, Silent
from .recipe import QuantizeRecipe

NAME = "smollm2-135m"
SCHEMES = ("w4a16", "bf16")
SPACE_NEEDED = 600 * 2**20
"""Bytes: both folders and the work between them, 420 MB; a full disk makes other programs fail."""


RECIPE = QuantizeRecipe()


def folder_name(scheme: str) -> str:
    """Where the model lies in the cache. Whatever decides the weights decides the name."""
    told: dict[str, str | None] = {"source": gguf_model.FILE_SHA256, "scheme": scheme}
    if scheme != "bf16":
        told["recipe"] = RECIPE.digest(calibration=source_digest(None))
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{NAME}-{scheme}-{digest[:8]}"


class PreparationError(RuntimeError):
    """The model cannot be made here; the message is one sentence for the user."""


def prepare(
    cache: Path | None = None, *, scheme: str = "w4a16", progress: Progress | None = None
) -> Path:
    """The finished folder of the embedded model; makes it first if it is not there yet."""
    progress = progress or Silent()
    models = (cache or cache_folder()).absolute() / "models"
    final = models / folder_name(scheme)

    def fill(folder: Path) -> None:
        _refuse_small_disk(folder)
        minutes = "a minute" if scheme == "bf16" else "three minutes"
        progress.say(f"Preparing {NAME} ({scheme}); this happens once and takes about {minutes}.")
        progress.begin(_READ_UNITS + (0 if scheme == "bf16" else _LAYERS + 1))
        if scheme == "bf16":
            _make(folder, progress)
        else:
            _quantize(folder, models / folder_name("bf16"), final, progress)

    with _user_sentences(final.parent):
        return make_once(final, fill, progress)


def _make(folder: Path, progress: Progress) -> None:
    """Fill `folder` with the model in 16 bits, its manifest last."""
    file = gguf_model.find_file()
    progress.stage("start torch")
    from . import export

    progress.stage("read")
    gguf_model.check_file(file)
    model, tokenizer = gguf_model.load(file, told=lambda name: progress.done())
    parameters = sum(weight.numel() for weight in model.parameters())
    progress.stage("write")
    export.save(folder, model, tokenizer)
    progress.done()
    progress.stage("hash")
    _manifest(folder, parameters).write(folder)
    progress.done()


def _quantize(folder: Path, ready: Path, final: Path, progress: Progress) -> None:
    """Fill `folder` with the model in 4 bits. It is made of the model in 16 bits, which is read
    from `ready` where somebody wanted that one before, and else made and removed."""
    from .folder import quantize_into, scheme_of
    from .parent import open_parent

    # Named like what is half-made, so that a killed one is swept away with the rest.
    beside = final.parent / f".{final.name}.{os.getpid()}.parent.partial"
    work = final.parent / f".{final.name}.work"
    try:
        if damage(ready) is None:
            source = ready
        else:
            source = beside
            beside.mkdir()
            _make(beside, progress)
        digest = RECIPE.digest(calibration=source_digest(None))
        parent, scheme = open_parent(source), scheme_of(RECIPE)
        quantize_into(folder, parent, scheme, RECIPE, digest, digest, work, progress)
        shutil.rmtree(work)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


_READ_UNITS = 272 + 2
"""Tensors to read, one write, one hash."""
_LAYERS = 30


def _manifest(folder: Path, parameters: int) -> Manifest:
    return Manifest(
        model_id=f"senryu/{NAME}",
        display_name="SmolLM2 135M Instruct",
        source=f"{gguf_model.PACKAGE} {gguf_model.PACKAGE_VERSION} ({gguf_model.ORIGINAL_MODEL})",
        licence=gguf_model.LICENCE,
        scheme="bf16",
        group_size=None,
        parameters=parameters,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=record_files(folder),
        recipe_digest=hashlib.sha256(gguf_model.FILE_SHA256.encode()).hexdigest(),
        notes=("The source stores 4-bit weights (Q4_1), which were unpacked to bf16 first.",),
    )


def _refuse_small_disk(folder: Path) -> None:
    if shutil.disk_usage(folder).free < SPACE_NEEDED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _user_sentences(models: Path) -> Iterator[None]:
    """Turn what a disk or a missing package says into one sentence with a way out."""
    try:
        yield
    except (gguf_model.SourceMissingError, QuantizeError) as problem:
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
