"""Chooses, by measuring, which layers of a quantized folder go back to 16 bits.

Comes in: a quantized folder, its parent, and a budget. Goes out: names of layers, and a sentence
for the manifest. It refuses to know how the loss of one layer is measured (`sensitivity.py`) and
how losses are weighed (`mixed.py`); there it is assumed that they add up, here it is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from senryu.distill.compare import kl

from .calibration import packed, read_calibration
from .errors import QuantizeError
from .mixed import choose
from .parent import Parent
from .progress import Progress
from .recipe import QuantizeRecipe
from .restore import restore
from .sensitivity import CHUNK, find_units, logits, measure

_ROUNDS = 4
"""Choices that are tried before a KL budget is called out of reach."""


def keep_more(
    folder: Path,
    parent: Parent,
    recipe: QuantizeRecipe,
    write: Callable[[Collection[str]], None],
    progress: Progress,
) -> tuple[frozenset[str], str]:
    """The layers that go back, which `write` has put into `folder`, and a sentence. Raises
    QuantizeError."""
    asked = recipe.mixed
    tokens = _tokens(parent, recipe)
    model, other = restore(parent.folder), restore(folder)
    stored = _stored_bytes(folder)
    units = find_units(model, tokens, stored)
    all_kl = _kl(model, other, tokens)
    found = measure(
        model, tokens, lambda name: other.get_submodule(name).weight, units, _Quiet(progress)
    )
    before = sum(each.stat().st_size for each in parent.folder.glob("*.safetensors"))
    smallest = sum(each.stat().st_size for each in folder.glob("*.safetensors"))
    target = asked.kl_budget
    for _ in range(_ROUNDS):
        choice = choose(
            found,
            size_budget=asked.size_budget,
            kl_budget=target,
            bytes_parent=before,
            bytes_smallest=smallest,
            kl_all=all_kl,
        )
        write(choice.kept)
        measured = _kl(model, restore(folder), tokens)
        if asked.kl_budget is None or measured <= asked.kl_budget or target is None:
            break
        target *= 0.95 * asked.kl_budget / measured
    else:
        raise QuantizeError(
            f"A KL of at most {asked.kl_budget:g} was not reached: {len(choice.kept)} layers in 16 "
            f"bits leave {measured:.3g}; give a larger budget."
        )
    note = (
        f"{len(choice.kept)} linear layers stay in 16 bits, those by whose rounding the model lost "
        f"most for their bytes: KL {all_kl:.3g} without them, {measured:.3g} with them, on "
        f"{tokens.numel():,} held-out tokens."
    )
    return frozenset(choice.kept), note


class _Quiet:
    """Passes on what is done without moving the bar: how many units there are is known late."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, sentence: str) -> None:
        self._progress.say(sentence)

    def begin(self, units: int) -> None: ...

    def stage(self, name: str) -> None:
        self._progress.stage(name)

    def done(self, detail: str = "") -> None:
        self._progress.stage(f"measure {detail}")


def _tokens(parent: Parent, recipe: QuantizeRecipe) -> Tensor:
    """Held-out ones: on those that the weights were fitted to, they lose less."""
    told = recipe.calibration.source
    held = read_calibration(
        None if told is None else Path(told).expanduser(),
        parent.folder,
        held_out=True,
        tokens=recipe.mixed.tokens,
        length=recipe.calibration.length,
        seed=recipe.calibration.seed,
    )
    tokens = packed(held.sequences, min(recipe.calibration.length, held.tokens))
    if not len(tokens):
        raise QuantizeError(f"{held.name} holds no tokens to measure on: give more samples.")
    return tokens


def _stored_bytes(folder: Path) -> dict[str, int]:
    """What each quantized layer takes, by its full name."""
    taken: dict[str, int] = {}
    packed_layers: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no mapping
                layer, found, _ = name.partition(".weight")
                if not found:
                    continue
                taken[layer] = taken.get(layer, 0) + stored.get_tensor(name).nbytes
                if not name.endswith(".weight"):
                    packed_layers.add(layer)
    return {name: taken[name] for name in taken if name in packed_layers}


def _kl(model: Any, other: Any, tokens: Tensor) -> float:
    """The mean over tokens, in nats."""
    total: float = 0.0
    with torch.inference_mode():
        for row in tokens:
            mine = model.model(input_ids=row[None], use_cache=False)[0][0]
            its = other.model(input_ids=row[None], use_cache=False)[0][0]
            for one, two in zip(mine.split(CHUNK), its.split(CHUNK), strict=True):
                total += float(kl(logits(model, one), logits(other, two)).sum())
    return total / int(tokens.numel())
