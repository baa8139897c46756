"""Puts quantized layers and everything else of a model into one folder that an engine loads.

Comes in: a parent, the files of its quantized layers, and the `quantization_config`. Goes out: a
folder in the Hugging Face layout, one file a decoder layer. It refuses to know how weights were
chosen.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import safe_open, save_file
from torch import Tensor

from .parent import INDEX, Parent

_WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"),
    ".index.json",
)
_OURS = ("senryu.json", "report.html", "report.json", "evaluation.json", "config.json")


def assemble(
    folder: Path,
    parent: Parent,
    layers: Sequence[Path],
    config: Mapping[str, Any],
    *,
    kept: Collection[str] = (),
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Fill `folder`, whatever weights of ours it held before. `kept` are linear layers whose
    quantized tensors are replaced by the parent's; `more` are tensors outside the layers."""
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    count = len(layers) + 1
    places: dict[str, str] = {}
    total = 0
    for number, file in enumerate(layers, start=1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        prefix = f"model.layers.{number - 1}."
        back = [each for each in kept if each.startswith(prefix)]
        tensors = _written(folder / name, file, parent, back)
        places |= dict.fromkeys(tensors, name)
        total += sum(tensors.values())
    rest = {each: parent.plain(each) for each in parent.files if ".layers." not in each}
    rest |= more or {}
    name = f"model-{count:05d}-of-{count:05d}.safetensors"
    save_file(rest, folder / name, {"format": "pt"})
    places |= dict.fromkeys(rest, name)
    total += sum(each.nbytes for each in rest.values())
    told = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    _copy_words(parent.folder, folder)
    written = json.loads((parent.folder / "config.json").read_text(encoding="utf-8"))
    for kind in ("dtype", "torch_dtype"):
        if written.get(kind) in ("float32", "float64"):
            written[kind] = "bfloat16"
    written["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _written(target: Path, file: Path, parent: Parent, back: Sequence[str]) -> dict[str, int]:
    """The file in its place: names and bytes of what it holds."""
    with safe_open(file, framework="pt") as stored:
        names = list(stored.keys())
        if not back:
            _share(file, target)
            return {name: stored.get_tensor(name).nbytes for name in names}
        tensors = {
            name: stored.get_tensor(name)
            for name in names
            if not any(name.startswith(f"{each}.") for each in back)
        }
    tensors |= {
        name: parent.plain(name)
        for name in parent.files
        if any(name.startswith(f"{each}.") for each in back)
    }
    save_file(tensors, target, {"format": "pt"})
    return {name: each.nbytes for name, each in tensors.items()}


def _share(file: Path, target: Path) -> None:
    """Two names for one file where the disk can do that: nobody writes into it from here on."""
    try:
        os.link(file, target)
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        shutil.copyfile(file, target)


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def _copy_words(source: Path, folder: Path) -> None:
    """Tokenizer, template, cards and settings, as they are."""
    for file in sorted(source.iterdir()):
        weights = file.name.endswith(_WEIGHTS)
        if file.is_file() and not weights and file.name not in _OURS and file.name[0] != ".":
            shutil.copyfile(file, folder / file.name)
