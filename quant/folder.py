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
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.server.manifest import MANIFEST_NAME, FileRecord, Manifest, record_files

from .errors import QuantizeError, reason
from .once import make_once
from .parent import PLAIN
from .progress import Progress, Silent
from .recipe import MixedRecipe, QadRecipe, QuantizeRecipe

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
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """`out`, made of `source` as the recipe says; `name` is what a `source` without a manifest is
    called. Raises QuantizeError."""
    from .parent import open_parent

    recipe = recipe or QuantizeRecipe()
    progress = progress or Silent()
    out = out.absolute()
    parent = open_parent(source)
    if name is not None and parent.manifest.created_at is None:
        told = dataclasses.replace(parent.manifest, model_id=name, display_name=name, source=name)
        parent = dataclasses.replace(parent, manifest=told)
    scheme = scheme_of(recipe)
    files = _files(parent)
    digest = recipe.digest(files=files, calibration=_calibrated_on(scheme, recipe))
    of_layers = layers_digest(scheme, recipe, files)
    again = _holds_another(out, source, digest)
    if again:
        progress.say(f"{out} was made of other weights or in another way; it is made again.")
    # Named by what is made, so that one process never removes the work of another; and by the
    # layers alone, so that another budget or more training does not make them again.
    work = out.parent / f".{out.name}.{of_layers[:8]}.work"

    def fill(folder: Path) -> None:
        from . import making

        left = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.work")
        for stale in out.parent.iterdir():
            if left.fullmatch(stale.name) and stale != work:
                shutil.rmtree(stale, ignore_errors=True)
        progress.begin(making.units(parent, recipe))
        quantize_into(folder, parent, scheme, recipe, digest, of_layers, work, progress)

    with _sentences(out):
        made = make_once(out, fill, progress, again=again)
        # While this one waited, another process may have made it in another way.
        if not again and _holds_another(out, source, digest):
            made = make_once(out, fill, progress, again=True)
        shutil.rmtree(work, ignore_errors=True)
        _renew_cards(source, made)
    return made


def quantize_into(
    folder: Path,
    parent: Parent,
    scheme: Scheme,
    recipe: QuantizeRecipe,
    digest: str,
    of_layers: str,
    work: Path,
    progress: Progress,
) -> None:
    """Fill an empty folder with the model and its manifest; what is half-done waits in `work`.
    `digest` is of everything that decides the result, `of_layers` of what decides the layers before
    any goes back or is trained."""
    from . import making

    calibration = _calibration(parent, scheme, recipe)
    digests = making.Digests(whole=digest, layers=of_layers)
    notes = making.make(folder, parent, scheme, recipe, calibration, digests, work, progress)
    told = parent.manifest
    dataclasses.replace(
        told,
        scheme=scheme.name,
        group_size=scheme.group_size,
        parameters=told.parameters or parent.parameters(),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=record_files(folder),
        recipe_digest=digest,
        calibration=None if calibration is None else calibration.record(),
        notes=(*told.notes, *notes),
        servable=None,  # that the parent was measured says nothing of this one
        refused_because=None,
    ).write(folder)


def layers_digest(scheme: Scheme, recipe: QuantizeRecipe, files: Mapping[str, str]) -> str:
    """Of what decides the layers, as they are before any goes back or is trained."""
    plain = dataclasses.replace(recipe, mixed=MixedRecipe(), qad=QadRecipe())
    return plain.digest(files=files, calibration=_calibrated_on(scheme, plain))


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
    """The linear layers that the recipe's patterns name, and those that an engine fuses with them,
    since it reads them in one way. Raises QuantizeError for a pattern that names none."""
    kept: set[str] = set()
    for pattern in recipe.scheme.keep:
        named = fnmatch.filter(names, pattern)
        if not named:
            raise QuantizeError(
                f"scheme.keep names no layer by {pattern!r}: layers are called like {names[0]}."
            )
        kept.update(named)
    for name in tuple(kept):
        place, _, own = name.rpartition(".")
        for fused in _FUSED:
            kept |= {f"{place}.{each}" for each in fused if own in fused} & set(names)
    return frozenset(kept)


_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def source_digest(source: Path | None) -> str:
    """Of the set that weights are fitted to, as it lies on the disk; None is the packaged one."""
    if source is None:
        return FileRecord.of(Path(__file__).parent / "packaged" / "calibration.jsonl").sha256
    if source.is_file():
        return FileRecord.of(source).sha256
    shards = sorted(each.name for each in source.rglob("*.parquet"))  # named by their content
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def _calibrated_on(scheme: Scheme, recipe: QuantizeRecipe) -> str | None:
    """Digests of all sets that the result depends on."""
    if not _needs_set(scheme, recipe) and not recipe.mixed.asked:
        return None
    sets = []
    for told in (recipe.calibration.source, *recipe.qad.samples):
        source = None if told is None else Path(told).expanduser()
        if source is not None and not source.exists():
            raise QuantizeError(
                f"There are no samples {told}: give a folder of senryu distill or a JSONL file."
            )
        try:
            sets.append(source_digest(source))
        except OSError as problem:
            raise QuantizeError(
                f"The calibration set {told} cannot be read ({reason(problem)})."
            ) from problem
    return " ".join(sets)


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
    """Digests of everything that decides the weights, which cards and reports do not."""
    try:
        parent.manifest.verify(parent.folder)  # by its content: weights decide everything
        records = dict(parent.manifest.files) or record_files(parent.folder)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    except OSError as problem:
        raise QuantizeError(f"{parent.folder} cannot be read ({reason(problem)}).") from problem
    told = {name: each.sha256 for name, each in records.items() if not name.endswith(".md")}
    return {name: each for name, each in told.items() if name not in _REPORTS}


_REPORTS = ("report.html", "report.json", "evaluation.json")


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
    plain = there.scheme in PLAIN
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
            f"{out} cannot be written ({reason(problem)}): make room there or name another "
            "folder, and run the same command again; finished layers are kept."
        ) from problem
