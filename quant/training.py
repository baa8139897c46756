"""Trains a folder through its quantizer, and goes on after a kill.

Comes in: a quantized folder, the files of its layers, and its parent. Goes out: other files of the
same layers. It refuses to know the loss and the gradient (`qad.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open
from torch import Tensor

from .calibration import packed, read_calibration
from .grids import Codes
from .layers import Work
from .packing import codes_of
from .parent import Parent
from .progress import Progress
from .recipe import QuantizeRecipe
from .restore import restore

CHECKPOINT_STEPS = 25
_RECENT = 20
"""Steps that the KL shown to a person is averaged over."""


def steps(recipe: QuantizeRecipe) -> int:
    """How many steps of training a recipe asks for."""
    rows = max(1, recipe.qad.batch_tokens // recipe.qad.sequence)
    return math.ceil(recipe.qad.tokens / (rows * recipe.qad.sequence))


def train(
    folder: Path,
    parent: Parent,
    scheme: Any,
    recipe: QuantizeRecipe,
    layers: list[Path],
    work: Work,
    digest: str,
    progress: Progress,
    *,
    kept: Collection[str] = (),
    device: torch.device | None = None,
) -> tuple[list[Path], dict[str, Tensor], str]:
    """Files that take the place of `layers`, other tensors that were trained, and a sentence.
    Raises QuantizeError."""
    from .qad import Trainer

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = _tokens(parent, recipe)
    found = {
        name: codes_of(tensors, scheme.grid)
        for file in layers
        for name, tensors in _packed(file).items()
        if name not in kept
    }
    student, teacher = restore(folder).to(device), restore(parent.folder).to(device)
    trainer = Trainer(student, teacher, found, scheme.grid, tokens, recipe.qad)
    found.clear()
    checkpoint = work.folder / f"qad-{digest[:16]}.safetensors"
    state = _found(checkpoint, str(device))
    if state is not None:
        trainer.resume(state)
    del state
    for _ in range(trainer.step):
        progress.done()
    recent: list[float] = []
    while trainer.step < trainer.steps:
        told = trainer.advance()
        recent = [*recent[-_RECENT + 1 :], told.kl]
        kl = sum(recent) / len(recent)
        progress.done(f"step {told.step}/{trainer.steps}, KL {kl:.3f}")
        if told.step % CHECKPOINT_STEPS == 0:
            work.put(checkpoint, trainer.state())
    trained, norms = trainer.codes(), trainer.norms()
    files = [_renewed(file, work, scheme, trained, norms) for file in layers]
    more = {name: each.cpu() for name, each in norms.items() if ".layers." not in name}
    rows = len(tokens) * tokens.shape[1]
    note = (
        f"Then distilled through the quantizer: {recipe.qad.tokens:,} tokens of training on "
        f"{rows:,} tokens of samples, against the 16-bit model's own distribution."
    )
    return files, {name: each.to(torch.bfloat16) for name, each in more.items()}, note


def _tokens(parent: Parent, recipe: QuantizeRecipe) -> Tensor:
    asked = recipe.qad
    parts = []
    for told in (recipe.calibration.source, *asked.samples):
        found = read_calibration(
            None if told is None else Path(told).expanduser(),
            parent.folder,
            tokens=asked.tokens,
            length=asked.sequence,
            seed=asked.seed,
        )
        parts.append(packed(found.sequences, asked.sequence))
    return torch.cat(parts)


def _packed(file: Path) -> dict[str, dict[str, Tensor]]:
    """The quantized layers in a file: name -> its tensors."""
    found: dict[str, dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as stored:
        names = list(stored.keys())
        layers = {name.removesuffix(".weight_scale") for name in names if "weight_scale" in name}
        for name in names:
            layer, _, own = name.rpartition(".")
            if layer in layers and own.startswith("weight"):
                found.setdefault(layer, {})[own] = stored.get_tensor(name)
    return found


def _renewed(
    file: Path, work: Work, scheme: Any, trained: dict[str, Codes], norms: dict[str, Tensor]
) -> Path:
    """A file of the same names with what was trained."""
    tensors = load_file(file)
    for name in {each.rpartition(".")[0] for each in tensors} & trained.keys():
        for own, tensor in scheme.pack(trained[name]).items():
            tensors[f"{name}.{own}"] = tensor.cpu()
    for name in tensors.keys() & norms.keys():
        tensors[name] = norms[name].cpu().to(tensors[name].dtype)
    renewed = work.folder / f"trained-{file.name}"
    work.put(renewed, tensors)
    return renewed


def _found(checkpoint: Path, device: str) -> dict[str, Tensor] | None:
    """What was kept; None where nothing was, or a dying machine left half of it."""
    try:
        return dict(load_file(checkpoint, device=device))
    except (FileNotFoundError, SafetensorError):
        return None
