"""Makes a quantized folder of a model folder.

Comes in: a model folder in 16 bits, a recipe, and a folder to write. Goes out: that folder, whole
or not there, with a manifest that says what it was made of: the same weights are not quantized
twice, and others take the place of what was made of them before. Killed work goes on where it was.
It refuses to know how codes are chosen and how an engine wants them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.server.manifest import MANIFEST_NAME, FileRecord, Manifest, record_files

from .errors import QuantizeError
from .once import make_once
from .progress import Progress, Silent
from .recipe import QuantizeRecipe

if TYPE_CHECKING:
    from .calibration import CalibrationSet
    from .parent import Parent
    from .schemes.base import Scheme

__all__ = ["QuantizeError", "quantize_folder", "quantize_into"]


def quantize_folder(
    source: Path,
    out: Path,
    recipe: QuantizeRecipe | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """`out`, made of `source` as the recipe says. Raises QuantizeError."""
    from .parent import open_parent

    recipe = recipe or QuantizeRecipe()
    progress = progress or Silent()
    out = out.absolute()
    parent = open_parent(source)
    scheme = scheme_of(recipe)
    digest = recipe.digest(files=_files(parent), calibration=_calibrated_on(scheme, recipe))
    again = _holds_another(out, source, digest)
    if again:
        progress.say(f"{out} was made of other weights or in another way; it is made again.")
    work = out.parent / f".{out.name}.work"

    def fill(folder: Path) -> None:
        from . import making

        progress.begin(making.units(parent, recipe))
        quantize_into(folder, parent, scheme, recipe, digest, work, progress)

    with _sentences(out):
        made = make_once(out, fill, progress, again=again)
        if work.exists():
            shutil.rmtree(work)
        _renew_cards(source, made)
    return made


def quantize_into(
    folder: Path,
    parent: Parent,
    scheme: Scheme,
    recipe: QuantizeRecipe,
    digest: str,
    work: Path,
    progress: Progress,
) -> None:
    """Fill an empty folder with the model and its manifest; what is half-done waits in `work`."""
    from . import making

    calibration = _calibration(parent, scheme, recipe)
    notes = making.make(folder, parent, scheme, recipe, calibration, digest, work, progress)
    told = parent.manifest
    dataclasses.replace(
        told,
        scheme=scheme.name,
        group_size=scheme.group_size,
        parameters=told.parameters or making.parameters(parent),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=record_files(folder),
        recipe_digest=digest,
        calibration=None if calibration is None else calibration.record(),
        notes=(*told.notes, *notes),
    ).write(folder)


def scheme_of(recipe: QuantizeRecipe) -> Scheme:
    """Raises QuantizeError where the recipe asks of a scheme what it does not know."""
    from .schemes import SCHEMES, open_scheme

    told = recipe.scheme
    if told.name not in SCHEMES:
        raise QuantizeError(
            f"There is no scheme {told.name}: choose one of {', '.join(SCHEMES)}, or keep bf16."
        )
    try:
        return open_scheme(
            told.name,
            group_size=told.group_size,
            symmetric=told.symmetric,
            rounding=told.rounding,
            scaling=told.scaling,
        )
    except ValueError as problem:
        raise QuantizeError(f"The scheme cannot be had so: {problem}.") from problem


def kept_layers(names: list[str], recipe: QuantizeRecipe) -> frozenset[str]:
    """The linear layers that the recipe's patterns name. Raises QuantizeError for a pattern that
    names none."""
    kept: set[str] = set()
    for pattern in recipe.scheme.keep:
        named = fnmatch.filter(names, pattern)
        if not named:
            raise QuantizeError(
                f"scheme.keep names no layer by {pattern!r}: layers are called like {names[0]}."
            )
        kept.update(named)
    return frozenset(kept)


def source_digest(source: Path | None) -> str:
    """Of the set that weights are fitted to, as it lies on the disk; None is the packaged one."""
    if source is None:
        return FileRecord.of(Path(__file__).parent / "packaged" / "calibration.jsonl").sha256
    if source.is_file():
        return FileRecord.of(source).sha256
    shards = sorted(each.name for each in source.rglob("*.parquet"))  # named by their content
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def _calibrated_on(scheme: Scheme, recipe: QuantizeRecipe) -> str | None:
    if not _needs_set(scheme, recipe):
        return None
    told = recipe.calibration.source
    try:
        return source_digest(None if told is None else Path(told).expanduser())
    except OSError as problem:
        raise QuantizeError(
            f"The calibration set {told} cannot be read ({_reason(problem)})."
        ) from problem


def _needs_set(scheme: Scheme, recipe: QuantizeRecipe) -> bool:
    return bool(scheme.calibrated or recipe.qad.tokens or recipe.scheme.kv_cache == "fp8")


def _calibration(parent: Parent, scheme: Scheme, recipe: QuantizeRecipe) -> CalibrationSet | None:
    if not _needs_set(scheme, recipe):
        return None
    from .calibration import read_calibration

    asked = recipe.calibration
    source = None if asked.source is None else Path(asked.source).expanduser()
    return read_calibration(
        source, parent.folder, tokens=asked.tokens, length=asked.length, seed=asked.seed
    )


def _files(parent: Parent) -> dict[str, str]:
    """Digests of everything that decides the weights, which the model card does not."""
    try:
        records = dict(parent.manifest.files) or record_files(parent.folder)
    except OSError as problem:
        raise QuantizeError(f"{parent.folder} cannot be read ({_reason(problem)}).") from problem
    return {name: each.sha256 for name, each in records.items() if not name.endswith(".md")}


def _holds_another(out: Path, source: Path, digest: str) -> bool:
    """Whether a whole quantized model is there that was made of something else. Raises
    QuantizeError where something is there that quantizing did not make."""
    if not out.exists():
        return False
    if not (out / MANIFEST_NAME).exists():
        raise QuantizeError(f"{out} exists and is no model of ours: name a folder that does not.")
    try:
        there = Manifest.read(out)
    except ValueError:
        return False  # damaged, and so made again anyway
    assert there is not None
    plain = there.scheme in ("bf16", "fp16", "fp32")
    if out.resolve() == source.resolve() or plain or there.recipe_digest is None:
        raise QuantizeError(
            f"{out} holds a model in {there.scheme}, which would be lost: name another folder."
        )
    return there.recipe_digest != digest


def _renew_cards(source: Path, made: Path) -> None:
    """Give the folder the model cards as they are now: measuring writes a new one."""
    manifest = Manifest.read(made)
    if manifest is None:
        return
    files = dict(manifest.files)
    for card in source.glob("*.md"):
        text = card.read_bytes()
        known = files.get(card.name)
        if known is not None and known.sha256 == hashlib.sha256(text).hexdigest():
            continue
        partial = made / f".{card.name}.partial"
        partial.write_bytes(text)
        os.replace(partial, made / card.name)
        files[card.name] = FileRecord.of(made / card.name)
    if files != manifest.files:
        dataclasses.replace(manifest, files=files).write(made)


@contextlib.contextmanager
def _sentences(out: Path) -> Iterator[None]:
    """Turn what a disk says into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise QuantizeError(
            f"{out} cannot be written ({_reason(problem)}): make room there or name another "
            "folder, and run the same command again; finished layers are kept."
        ) from problem


def _reason(problem: BaseException) -> str:
    """The first line of what it says, or its name where it says nothing."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(problem).__name__
