"""Leads the calibration set through a model, one decoder layer at a time.

Comes in: a parent and token ids. Goes out: for each layer what its linear layers read (`Read`), and
the hidden states behind it. Never more than one decoder layer is in memory. It refuses to know what
is done to weights between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .gptq import Moments
from .parent import Parent
from .schemes.base import Read

BATCH = 4
"""Sequences that go through a layer at once."""
WRITERS = ("k_proj", "v_proj", "k_norm", "v_norm")
"""Of keys and values. Where there is a norm, what it puts out is what is kept in the cache."""
JUDGES = 5
"""One sequence in five is not rounded against but judges the damping."""


@dataclass(slots=True, eq=False)
class Walk:
    """Hidden states on their way through the layers of one skeleton."""

    layers: Sequence[nn.Module]
    states: Tensor
    """bf16 `(sequences, length, hidden)`, in front of the next layer."""
    _told: Sequence[Mapping[str, Any]]
    _device: torch.device

    def read(self, index: int) -> tuple[list[tuple[str, ...]], dict[str, Read]]:
        """Which linear layers of decoder layer `index` read the same, and what each of these groups
        reads, by the name of its first."""
        layer = self.layers[index]
        names = {each: name for name, each in layer.named_modules() if isinstance(each, nn.Linear)}
        counted: dict[str, _Counted] = {}
        shared = _Shared()
        judging = False

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            name = names[module]
            if shared.leads(name, inputs[0]):
                counted.setdefault(name, _Counted()).add(inputs[0], judging)

        hooks = [module.register_forward_pre_hook(count) for module in names]
        try:
            for judged in (False, True):
                judging = judged
                rows = [
                    row for row in range(len(self.states)) if (row % JUDGES == JUDGES - 1) is judged
                ]
                for start in range(0, len(rows), BATCH):
                    self._pass(layer, index, self.states[rows[start : start + BATCH]])
                    shared.settle()
        finally:
            for hook in hooks:
                hook.remove()
        return shared.groups, {name: each.read() for name, each in counted.items()}

    def step(self, index: int) -> dict[str, float]:
        """Lead the states through decoder layer `index`, with the weights that it has now. Returns
        the greatest magnitude of what each part that writes keys and values put out."""
        layer = self.layers[index]
        greatest: dict[str, float] = {}

        def note(name: str, output: Tensor) -> None:
            greatest[name] = max(greatest.get(name, 0.0), float(output.abs().max()))

        hooks = [
            each.register_forward_hook(lambda _, __, output, name=name: note(name, output))
            for name, each in layer.named_modules()
            if name.rpartition(".")[2] in WRITERS
        ]
        try:
            for batch in self.states.split(BATCH):
                batch.copy_(self._pass(layer, index, batch))
        finally:
            for hook in hooks:
                hook.remove()
        return greatest

    def _pass(self, layer: nn.Module, index: int, batch: Tensor) -> Tensor:
        out = layer(batch.to(self._device), **self._told[index])
        return out[0] if isinstance(out, tuple) else out


def begin(parent: Parent, model: Any, tokens: Tensor, device: torch.device) -> Walk:
    """A walk in front of the first layer. `tokens` are int64 `(sequences, length)`."""
    inner = model.model
    parent.load(inner.embed_tokens, "model.embed_tokens")
    layers, norm = inner.layers, inner.norm
    listeners = [_Listener(layer) for layer in layers]
    inner.layers = nn.ModuleList(listeners)
    inner.norm = nn.Identity()  # it has no weights yet
    try:
        inner(input_ids=tokens[:1], use_cache=False)
        # Told to one sequence, so that it fits batches of any size.
        told = [
            {name: _moved(value, device) for name, value in each.told.items()} for each in listeners
        ]
        parts = []
        for batch in tokens.split(BATCH):
            inner(input_ids=batch, use_cache=False)
            parts.append(listeners[0].heard)
    finally:
        inner.layers, inner.norm = layers, norm
        inner.embed_tokens.to("meta")
    return Walk(layers, torch.cat(parts), told, device)


class _Listener(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Stands in a layer's place, notes how it is called, and lets the states through."""

    told: dict[str, Any]
    heard: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in ("attention_type", "layer_type"):  # which mask a layer is given
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_states: Tensor, **told: Any) -> Tensor:
        self.told, self.heard = told, hidden_states
        return hidden_states


@dataclass(slots=True)
class _Shared:
    """Which layers are given the very same states, found while the first batch passes."""

    _seen: list[tuple[Tensor, list[str]]] = field(default_factory=list)
    _leaders: set[str] = field(default_factory=set)
    groups: list[tuple[str, ...]] = field(default_factory=list)

    def leads(self, name: str, states: Tensor) -> bool:
        """Whether it is the first of those that are given these states."""
        if self.groups:
            return name in self._leaders
        for known, names in self._seen:  # kept alive meanwhile, so that no other takes its place
            if known is states:
                names.append(name)
                return False
        self._seen.append((states, [name]))
        self._leaders.add(name)
        return True

    def settle(self) -> None:
        if not self.groups:
            self.groups = [tuple(names) for _, names in self._seen]
            self._seen.clear()


@dataclass(slots=True)
class _Counted:
    """Sums over the tokens that a layer has read, of those rounded against and the judges."""

    sums: dict[bool, Tensor] = field(default_factory=dict)
    tokens: dict[bool, int] = field(default_factory=dict)
    largest: Tensor | None = None

    def add(self, states: Tensor, judging: bool) -> None:
        flat = states.reshape(-1, states.shape[-1]).float()
        if judging not in self.sums:
            self.sums[judging] = flat.new_zeros(flat.shape[1], flat.shape[1])
        self.sums[judging].addmm_(flat.T, flat)
        self.tokens[judging] = self.tokens.get(judging, 0) + len(flat)
        largest = flat.abs().amax(dim=0)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def read(self) -> Read:
        assert self.largest is not None
        fitted = self.sums[False] / self.tokens[False]
        # A set too small to have judges is judged by itself.
        judged = self.sums[True] / self.tokens[True] if True in self.sums else fitted
        return Read(moments=Moments(fitted=fitted, judged=judged), largest=self.largest)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(each, device) for each in value)
    return value
