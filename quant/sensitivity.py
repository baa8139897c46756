"""Measures what the model loses by each of its linear layers, when that alone is quantized.

Comes in: the 16-bit model in memory, token ids, and the weights that quantized layers stand for.
Goes out: for each unit of layers the KL divergence from the model's own distribution. Nothing is
estimated. A unit cannot change what lies in front of it, so its decoder layer starts from the
hidden states found there, and only the layers behind it run again.

Above the model it holds the hidden states of all tokens twice (in front of one decoder layer, and
behind the last), one quantized unit, and the logits of `CHUNK` positions twice. It refuses to know
how weights were quantized and what becomes of the figures.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senryu.distill.compare import kl

from .errors import QuantizeError
from .progress import Progress, Silent

CHUNK = 256
"""Positions whose logits over the whole vocabulary stand in memory together."""
PROBE = 16
"""Tokens that show which layers read the same."""
Model = Any
"""A causal language model with `.config`, `.model` (with `.layers`, `.norm`) and `.lm_head`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Linear layers of one decoder layer that read the same input. An engine may fuse them, so they
    are quantized together or not at all."""

    name: str
    """Such as `model.layers.3.self_attn qkv` or `model.layers.3.mlp gate,up`."""
    layers: tuple[str, ...]
    """Their full names."""
    saved_bytes: int
    """What quantizing them takes off the 16-bit folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Unit):
    """What the model loses by one unit."""

    kl: float
    """KL(model || model with this unit quantized) in nats, the mean over tokens."""


def find_units(model: Model, tokens: Tensor, stored: Mapping[str, int]) -> tuple[Unit, ...]:
    """The units of all layers that were quantized, in the model's own order. `stored` are the
    bytes that each of them takes now, `tokens` any that the model can read, `(n, length)`."""
    names = {model.get_submodule(name): name for name in stored}
    heard: list[tuple[Tensor, list[str]]] = []

    def hear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for states, together in heard:  # kept alive, so that no other takes its place
            if states is inputs[0]:
                together.append(names[module])
                return
        heard.append((inputs[0], [names[module]]))

    hooks = [module.register_forward_pre_hook(hear) for module in names]
    try:
        with torch.no_grad():
            model.model(input_ids=tokens[:1, :PROBE].to(_device(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    together = {name: tuple(each) for _, each in heard for name in each}
    order = [together.get(name, (name,)) for name, _ in model.named_modules() if name in stored]
    return tuple(_unit(model, each, stored) for each in dict.fromkeys(order))


def measure(
    model: Model,
    tokens: Tensor,
    replaced: Callable[[str], Tensor],
    units: Sequence[Unit],
    progress: Progress | None = None,
) -> tuple[Sensitivity, ...]:
    """One figure for each unit, in the order of `units`; each is a unit of `progress`, which the
    caller has begun. `tokens` are int64 `(n, length)`, `replaced` gives the weight that a quantized
    layer stands for, `(out, in)`. It must stand for the weight that the model has: not where scale
    was moved into other layers or norms first. The model is as before when this returns.

    Raises QuantizeError where a quantized unit makes the model give no numbers.
    """
    progress = progress or Silent()
    by_layer = _by_layer(model, units)
    found: dict[str, float] = {}
    with torch.no_grad():
        passage = _Passage.read_by(model, tokens)
        for index in range(len(model.model.layers)):
            for unit in by_layer.get(index, ()):
                with _quantized(model, unit, replaced):
                    found[unit.name] = passage.lost_from(index)
                if not math.isfinite(found[unit.name]):
                    raise QuantizeError(
                        f"With {unit.name} quantized the model gives no numbers but NaN or "
                        "infinities: quantize with another scheme, or name these layers in "
                        "scheme.keep."
                    )
                progress.done(unit.name)
            passage.step(index)
    return tuple(
        Sensitivity(
            name=unit.name,
            layers=unit.layers,
            saved_bytes=unit.saved_bytes,
            kl=max(0.0, found[unit.name]),  # rounding may leave a hair below
        )
        for unit in units
    )


@dataclass(slots=True, eq=False)
class _Passage:
    """Tokens on their way through the model, a sequence at a time."""

    model: Model
    states: list[Tensor]
    """Of each sequence, in front of the next decoder layer, `(1, length, hidden)`."""
    last: list[Tensor]
    """Of each sequence, what the model's head reads when nothing is quantized."""
    told: list[dict[str, Any]]
    """What else each decoder layer is given; all sequences are of one length and get the same."""

    @classmethod
    def read_by(cls, model: Model, tokens: Tensor) -> _Passage:
        states: list[Tensor] = []
        last: list[Tensor] = []
        told: dict[int, dict[str, Any]] = {}

        def note(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
                more = dict(named)
                first = inputs[0] if inputs else more.pop("hidden_states")
                told[index] = more
                if index == 0:
                    states.append(first)

            return hook

        hooks = [
            layer.register_forward_pre_hook(note(index), with_kwargs=True)
            for index, layer in enumerate(model.model.layers)
        ]
        try:
            for sequence in tokens.to(_device(model)):
                last.append(model.model(input_ids=sequence[None], use_cache=False)[0])
        finally:
            for hook in hooks:
                hook.remove()
        return cls(model, states, last, [told[index] for index in sorted(told)])

    def step(self, index: int) -> None:
        """Lead the states through one decoder layer."""
        for number, states in enumerate(self.states):
            self.states[number] = self._pass(index, states)

    def lost_from(self, index: int) -> float:
        """The mean KL, were the model from this decoder layer on as it is now."""
        total, count = 0.0, 0
        for start, last in zip(self.states, self.last, strict=True):
            states = start
            for each in range(index, len(self.told)):
                states = self._pass(each, states)
            states = self.model.model.norm(states)
            for mine, its in zip(last[0].split(CHUNK), states[0].split(CHUNK), strict=True):
                told, guessed = logits(self.model, mine), logits(self.model, its)
                total += float(kl(told, guessed).sum())
                count += len(mine)
        return total / count

    def _pass(self, index: int, states: Tensor) -> Tensor:
        out = self.model.model.layers[index](states, **self.told[index])
        return out[0] if isinstance(out, tuple) else out


@contextlib.contextmanager
def _quantized(model: Model, unit: Unit, replaced: Callable[[str], Tensor]) -> Iterator[None]:
    """The unit's weights are the quantized ones meanwhile."""
    modules = {name: model.get_submodule(name) for name in unit.layers}
    before = {name: module.weight.data for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.weight.data = replaced(name).to(before[name])
        yield
    finally:
        for name, module in modules.items():
            module.weight.data = before[name]


def _by_layer(model: Model, units: Sequence[Unit]) -> dict[int, list[Unit]]:
    """Units by the decoder layer that they are in."""
    inside = {
        module: index
        for index, layer in enumerate(model.model.layers)
        for module in layer.modules()
    }
    found: dict[int, list[Unit]] = {}
    for unit in units:
        places = {inside[model.get_submodule(name)] for name in unit.layers}
        assert len(places) == 1, f"{unit.name} is not of one decoder layer"
        found.setdefault(places.pop(), []).append(unit)
    return found


def _unit(model: Model, layers: tuple[str, ...], stored: Mapping[str, int]) -> Unit:
    full = sum(2 * int(model.get_submodule(name).weight.numel()) for name in layers)
    return Unit(
        name=_name(layers),
        layers=layers,
        saved_bytes=full - sum(stored[name] for name in layers),
    )


def _name(layers: Sequence[str]) -> str:
    """What they have in common, then what sets them apart: `model.layers.3.self_attn qkv`."""
    parts = [name.split(".") for name in layers]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    own = [".".join(each[shared:]).removesuffix("_proj") for each in parts]
    between = "" if all(len(each) == 1 for each in own) else ","
    return f"{'.'.join(parts[0][:shared])} {between.join(own)}"


def logits(model: Model, hidden: Tensor) -> Tensor:
    """Families that do something to their logits say so in their config."""
    config = model.config
    logits: Tensor = model.lm_head(hidden).float()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _device(model: Model) -> torch.device:
    device: torch.device = model.lm_head.weight.device
    return device
