"""Makes a 4-bit folder of any Llama-like model folder.

Comes in: a model folder in 16 bits and a folder to write. Goes out: that folder, whole or not
there, with a manifest that says what it was made of. It refuses to know how codes are chosen
(`rtn.py`) and how vLLM wants them (`export.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from senryu.server.manifest import MANIFEST_NAME, describe_folder, record_files

from .once import make_once
from .progress import Progress, Silent


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
    if out.exists() and not (out / MANIFEST_NAME).exists():
        raise QuantizeError(f"{out} exists and is no model of ours: name a folder that does not.")

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
            recipe_digest=None,
            notes=(*parent.notes, "Rounded to nearest in 4 bits, without calibration data."),
        ).write(folder)

    return make_once(out.absolute(), fill, progress)


def _load(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .export import no_bars

    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    except (ValueError, OSError, KeyError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise QuantizeError(
            f"{source} cannot be loaded ({reason}): give a folder of a model that transformers "
            "knows, with all its files."
        ) from problem
    return model, AutoTokenizer.from_pretrained(source)
