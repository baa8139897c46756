"""Makes a 4-bit folder of any Llama-like model folder.

Comes in: a model folder in 16 bits and a folder to write. Goes out: that folder, whole or not
there, with a manifest that says what it was made of: the same weights are not quantized twice, and
others take the place of what was made of them before. It refuses to know how codes are chosen
(`rtn.py`) and how vLLM wants them (`export.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from senryu.server.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    describe_folder,
    record_files,
)

from .once import make_once
from .progress import Progress, Silent

REVISION = 1
"""Raise it when the code changes what becomes of the same weights."""
_LAYERWISE = "nemotron-nas"


class QuantizeError(RuntimeError):
    """The model cannot be quantized; the message is one sentence for the user."""


def quantize_folder(
    source: Path,
    out: Path,
    *,
    group_size: int = 32,
    symmetric: bool = False,
    progress: Progress | None = None,
) -> Path:
    """`out`, with the weights of `source` rounded to nearest in groups. Raises QuantizeError."""
    progress = progress or Silent()
    try:
        parent = describe_folder(source)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    if parent.group_size is not None or parent.scheme not in ("bf16", "fp16", "fp32"):
        raise QuantizeError(
            f"{source} is stored as {parent.scheme}: quantize the 16-bit model that it was made of."
        )
    if _model_type(source) == _LAYERWISE:
        raise QuantizeError(
            f"{source} has layers of different widths, which are served in bf16 only: serve it as "
            "it is."
        )
    digest = _digest(source, parent, group_size, symmetric)
    again = _holds_another(out, source, digest)
    if again:
        progress.say(f"{out} was made of other weights or in another way; it is made again.")

    def fill(folder: Path) -> None:
        from . import export, rtn

        model, tokenizer = _load(source)
        parameters = sum(weight.numel() for weight in model.parameters())
        names = export.linear_layers(model)
        progress.begin(len(names))
        progress.stage("quantize")

        def choose(name: str, weight: Any) -> rtn.GroupCodes:
            return rtn.quantize(weight, group_size=group_size, symmetric=symmetric)

        scheme = export.W4A16(group_size=group_size, symmetric=symmetric)
        try:
            packed = export.pack(model, scheme, choose, lambda name: progress.done())
        except ValueError as problem:
            raise QuantizeError(str(problem)) from problem
        export.save(folder, model, tokenizer, packed)
        for text in source.glob("*.md"):  # the model card
            (folder / text.name).write_bytes(text.read_bytes())
        dataclasses.replace(
            parent,
            scheme="w4a16",
            group_size=group_size,
            parameters=parent.parameters or parameters,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            files=record_files(folder),
            recipe_digest=digest,
            notes=(*parent.notes, "Rounded to nearest in 4 bits, without calibration data."),
        ).write(folder)

    with _sentences(out):
        made = make_once(out.absolute(), fill, progress, again=again)
        _renew_cards(source, made)
    return made


def _digest(source: Path, parent: Manifest, group_size: int, symmetric: bool) -> str:
    """Of everything that decides the weights, which the model card does not."""
    try:
        parent.verify(source, hashes=False)
        files = dict(parent.files) or record_files(source)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    except OSError as problem:
        raise QuantizeError(f"{source} cannot be read ({_reason(problem)}).") from problem
    told: Mapping[str, Any] = {
        "files": {name: each.sha256 for name, each in files.items() if not name.endswith(".md")},
        "scheme": "w4a16",
        "group_size": group_size,
        "symmetric": symmetric,
        "revision": REVISION,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _holds_another(out: Path, source: Path, digest: str) -> bool:
    """Whether a whole 4-bit model is there that was made of something else. Raises QuantizeError
    where something is there that quantizing did not make."""
    if not out.exists():
        return False
    if not (out / MANIFEST_NAME).exists():
        raise QuantizeError(f"{out} exists and is no model of ours: name a folder that does not.")
    try:
        there = Manifest.read(out)
    except ValueError:
        return False  # damaged, and so made again anyway
    assert there is not None
    if out.resolve() == source.resolve() or there.scheme != "w4a16":
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


def _model_type(source: Path) -> str | None:
    try:
        told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever loads it says what is wrong
    return told.get("model_type") if isinstance(told, dict) else None


@contextlib.contextmanager
def _sentences(out: Path) -> Iterator[None]:
    """Turn what a disk says into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise QuantizeError(
            f"{out} cannot be written ({_reason(problem)}): make room there or name another "
            "folder, and run the same command again."
        ) from problem


def _load(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .export import no_bars

    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as problem:  # the libraries have many, down to Exception itself
        raise QuantizeError(
            f"{source} cannot be loaded ({_reason(problem)}): give a folder of a model that "
            "transformers knows, with all its files."
        ) from problem
    return model, tokenizer


def _reason(problem: BaseException) -> str:
    """The first line of what it says, or its name where it says nothing."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(problem).__name__
