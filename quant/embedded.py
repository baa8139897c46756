"""Makes the embedded model, once, in the user's cache folder.

Comes in: a scheme, a cache folder and somebody to report to. Goes out: a finished model folder
with a manifest. However many processes ask, and whenever one of them is killed, the folder is
either complete or not there: the work happens in a folder beside it, under a lock, and one rename
finishes it. It refuses to know how the file is read, how weights are rounded and how vLLM wants
them; it only puts those in order. torch is imported when there is work, not before.
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

from senryu.server.manifest import DamagedModelError, Manifest, cache_folder, record_files

from . import gguf_model
from .progress import Progress, Silent

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
    models = (cache or cache_folder()).absolute() / "models"
    final = models / recipe.folder_name
    if _problem(final) is None:
        return final
    with _user_sentences(models):
        models.mkdir(parents=True, exist_ok=True)
        with _alone(models / f".{final.name}.lock", final, progress):
            return _prepare_alone(final, recipe, progress)


def _prepare_alone(final: Path, recipe: Recipe, progress: Progress) -> Path:
    """What `prepare` does once no other process does the same."""
    problem = _problem(final)
    if problem is None:
        return final  # another process made it while we waited
    if final.exists():
        progress.say(f"{problem} Preparing it again.")
    for stale in final.parent.glob(f".{final.name}.*.partial"):
        shutil.rmtree(stale)  # its maker is gone, else it would hold the lock
    _refuse_small_disk(final.parent)
    partial = final.parent / f".{final.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        _make(partial, recipe, progress)
        _put_in_place(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _problem(folder: Path) -> str | None:
    """Why the folder cannot be used, as a sentence; None when it can. Takes a millisecond."""
    try:
        manifest = Manifest.read(folder)
        if manifest is None:
            return f"The model folder {folder} is not complete."
        manifest.verify(folder, hashes=False)
    except DamagedModelError as damage:
        return f"{damage.finding}."  # its advice is for people; here it is followed at once
    return None


def _make(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Fill `folder` with the finished model, its manifest last."""
    file = gguf_model.find_file()
    progress.say(f"Preparing {NAME} ({recipe.scheme}); this happens once and takes about a minute.")
    progress.begin(_units(recipe))
    progress.stage("start torch")
    from . import export, rtn

    progress.stage("read")
    gguf_model.check_file(file)
    model, tokenizer = gguf_model.load(file, told=lambda name: progress.done())
    parameters = sum(weight.numel() for weight in model.parameters())

    packed = None
    if recipe.group_size is not None:
        scheme = export.W4A16(group_size=recipe.group_size, symmetric=bool(recipe.symmetric))
        layers = {name: i for i, name in enumerate(export.linear_layers(model), start=1)}
        progress.stage("quantize")
        packed = export.pack(
            model,
            scheme,
            choose=lambda name, weight: rtn.quantize(
                weight, group_size=scheme.group_size, symmetric=scheme.symmetric
            ),
            told=lambda name: progress.done(f"layer {layers[name]}/{len(layers)}"),
        )
    progress.stage("write")
    export.save(folder, model, tokenizer, packed)
    progress.done()
    progress.stage("hash")
    _manifest(folder, recipe, parameters).write(folder)
    progress.done()


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


def _put_in_place(partial: Path, final: Path) -> None:
    """One rename, after everything reached the disk; a damaged folder in the way moves aside."""
    readers = partial.stat().st_mode & 0o666
    for file in partial.iterdir():
        # safetensors writes files that only their owner may read, whatever the umask says;
        # a cache may be shared.
        file.chmod(readers)
        _flush(file)
    if final.exists():
        # A running server keeps its open files; the name is free for the new folder.
        aside = final.parent / f".{final.name}.{os.getpid()}.old.partial"
        final.rename(aside)
        partial.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        partial.rename(final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(lock_file: Path, final: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock; say so when another process has it. The kernel frees it when that one dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"Another process is preparing {final.name}; waiting for it to finish.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_small_disk(models: Path) -> None:
    free = shutil.disk_usage(models).free
    if free < SPACE_NEEDED:
        raise OSError(errno.ENOSPC, "too small")


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
            f"run `pip install 'senryu[models]'`."
        ) from problem
    except Exception as problem:
        reason = _disk_problem(problem, models)
        if reason is None:
            raise
        raise PreparationError(
            f"The model cannot be written to {models} ({reason}): free {SPACE_NEEDED >> 20} MB "
            f"there, or set SENRYU_CACHE to a folder that you may write to."
        ) from problem


def _disk_problem(problem: Exception, models: Path) -> str | None:
    """What the disk said about the models' folder; None when the problem is another one."""
    if isinstance(problem, OSError):
        return os.strerror(problem.errno).lower() if _concerns(problem, models) else None
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
