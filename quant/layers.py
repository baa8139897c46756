"""Quantizes a model layer by layer into a work folder, and goes on there after a kill.

Comes in: a parent, a scheme, and the calibration set's token ids. Goes out: one safetensors file
for every decoder layer. In memory are never more than one decoder layer, what its inputs measure,
and the hidden states of the calibration set. It refuses to know how codes are chosen and what
becomes of the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save_file
from torch import Tensor, nn

from .errors import QuantizeError
from .memory import give_back
from .parent import Parent, linear_layers
from .progress import Progress
from .schemes.base import Read, Scheme
from .walk import Walk, begin

_STATES = "states.safetensors"
_DIGEST = "digest.json"


@dataclass(frozen=True, slots=True)
class Work:
    """A folder beside the result, where layers wait for each other."""

    folder: Path

    def take(self, digest: str) -> int:
        """Take the folder for the work that `digest` names: how many layers lie there already.
        What another work left is removed."""
        if self._digest() != digest:
            self.remove()
            self.folder.mkdir(parents=True)
            _write(self.folder / _DIGEST, json.dumps({"digest": digest}).encode())
        done = 0
        while _is_whole(self.layer(done)):
            done += 1
        return done

    def layer(self, index: int) -> Path:
        return self.folder / f"layer-{index:05d}.safetensors"

    def put(self, file: Path, tensors: Mapping[str, Tensor], **told: str) -> None:
        """A file that is whole or not there."""
        partial = file.with_name(f".{file.name}.partial")
        plain = {name: each.cpu().contiguous() for name, each in tensors.items()}
        save_file(plain, partial, {"format": "pt", **told})
        os.replace(partial, file)

    def put_states(self, states: Tensor, behind: int) -> None:
        """The hidden states behind so many layers."""
        self.put(self.folder / _STATES, {"states": states}, behind=str(behind))

    def states(self, behind: int) -> Tensor | None:
        """Those of `put_states`, if they are the ones behind so many layers."""
        try:
            with safe_open(self.folder / _STATES, framework="pt") as stored:
                if (stored.metadata() or {}).get("behind") != str(behind):
                    return None
                states: Tensor = stored.get_tensor("states")
        except (FileNotFoundError, SafetensorError):
            return None
        return states

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _digest(self) -> str | None:
        try:
            return str(json.loads((self.folder / _DIGEST).read_text())["digest"])
        except (OSError, ValueError, KeyError):
            return None


def quantize_layers(
    parent: Parent,
    scheme: Scheme,
    tokens: Tensor | None,
    work: Work,
    digest: str,
    progress: Progress,
    *,
    kept: Collection[str] = (),
    watch: bool = False,
    device: torch.device | None = None,
) -> None:
    """Fill `work`. `tokens` are int64 `(sequences, length)`, None for a scheme that wants none;
    `kept` are full names of linear layers that stay in 16 bits. With `watch` the greatest keys and
    values are noted in each file's metadata. Raises QuantizeError."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = parent.skeleton()
    layers = model.model.layers
    refuse_shapes(model, scheme, kept)
    done = work.take(digest)
    walk = None
    if tokens is not None and done < len(layers):
        progress.stage("read the calibration set")
        walk = begin(parent, model, tokens, device)
        states = work.states(done)
        if states is None and done:  # killed between a layer and what lies behind it
            done -= 1
            states = work.states(done)
            done = done if states is not None else 0
        walk.states = walk.states if states is None else states
        give_back()
    progress.stage("quantize")
    for index, layer in enumerate(layers):
        if index >= done:
            prefix = f"model.layers.{index}"
            parent.load(layer, prefix, device)
            tensors = _quantize(parent, layer, index, scheme, walk, kept)
            last = index + 1 == len(layers)
            written = walk.step(index) if walk is not None and (watch or not last) else {}
            told = {"outputs": json.dumps(written)} if watch else {}
            work.put(work.layer(index), tensors, **told)
            if walk is not None and not last:
                work.put_states(walk.states, index + 1)
            layer.to("meta")
            give_back()
        progress.done(f"layer {index + 1}/{len(layers)}")


def refuse_shapes(model: Any, scheme: Scheme, kept: Collection[str]) -> None:
    """One sentence for the first layer that no kernel of this scheme takes."""
    for name in linear_layers(model):
        rows, columns = model.get_submodule(name).weight.shape
        odd = scheme.multiple
        group = scheme.group_size or 1
        if name not in kept and (rows % odd or columns % odd or columns % group):
            raise QuantizeError(
                f"Layer {name} is {rows} x {columns}, and {scheme.name} takes layers whose sides "
                f"are multiples of {odd}{f' and groups of {group}' if group > odd else ''}: "
                "choose another scheme or a smaller group, or serve this model in bf16."
            )


def _quantize(
    parent: Parent,
    layer: nn.Module,
    index: int,
    scheme: Scheme,
    walk: Walk | None,
    kept: Collection[str],
) -> dict[str, Tensor]:
    """The tensors of one decoder layer by their full names; the layer then computes with what they
    stand for."""
    prefix = f"model.layers.{index}"
    groups: list[tuple[str, ...]]
    reads: dict[str, Read]
    groups, reads = (_unread(layer), {}) if walk is None else walk.read(index)
    moved: Mapping[str, Tensor] = {}
    if walk is not None:
        with _named(parent, prefix):
            told = {name: reads[group[0]] for group in groups for name in group}
            moved = scheme.balance(layer, told)
        for group in groups:
            if group[0] in moved:
                reads[group[0]] = reads[group[0]].divided(moved[group[0]])
    tensors: dict[str, Tensor] = {}
    for group in groups:
        names = [name for name in group if f"{prefix}.{name}" not in kept]
        weights = {name: layer.get_submodule(name).weight for name in names}
        with _named(parent, f"{prefix}.{group[0]}"):
            stored = scheme.store(weights, reads.get(group[0])) if weights else {}
        for name, each in stored.items():
            layer.get_submodule(name).weight.copy_(each.values)
            for part, tensor in each.tensors.items():
                tensors[f"{prefix}.{name}.{part}"] = tensor
        give_back()
    quantized = {f"{name.rsplit('.', 1)[0]}.weight" for name in tensors}
    rest = {f"{prefix}.{name}": each for name, each in layer.named_parameters()}
    tensors |= {name: each for name, each in rest.items() if name not in quantized}
    if not moved:  # the very bytes, which may have had other digits than bf16
        tensors |= {name: parent.plain(name) for name in tensors if name.rpartition(".")[0] in kept}
    return tensors


def _unread(layer: nn.Module) -> list[tuple[str, ...]]:
    """Without a walk: attention's first three and the MLP's first two read the same."""
    names = linear_layers(layer)
    groups: dict[str, list[str]] = {}
    for name in names:
        parent, _, own = name.rpartition(".")
        groups.setdefault(f"{parent} {_FUSED.get(own, own)}", []).append(name)
    return [tuple(group) for group in groups.values()]


_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "in", "up_proj": "in"}


@contextlib.contextmanager
def _named(parent: Parent, layer: str) -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        why = str(problem).rstrip(".")
        raise QuantizeError(
            f"{parent.folder}: layer {layer} cannot be quantized ({why})."
        ) from problem


def _is_whole(file: Path) -> bool:
    """A machine that lost its power may have kept a file's name without its content."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def _write(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)
