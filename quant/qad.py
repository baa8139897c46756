"""QAD: distillation through the quantizer.

Comes in: a quantized model whose weights lie on grids, its 16-bit parent, and token ids of stored
samples. Goes out: other codes and scales on the same grids, with which the model says what its
parent says. Rounding has no slope, so the gradient passes through it as if it were not there
(straight-through, Bengio et al. 2013, arXiv 1308.3432); what is minimised is the KL divergence of
the whole vocabulary from the parent's, as in quantization-aware distillation (arXiv 1802.05668).
It refuses to know how the codes were first chosen, and how folders are written.

Weights are trained in steps of their own grid and scales as parts of themselves, so that one
learning rate fits models of any size. In memory: the parent and the student in bf16, and
some 24 bytes for every quantized weight: itself, its gradient and two moments in float32, and what
the way back through the rounding holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senryu.distill.schedule import factor

from .errors import QuantizeError
from .grids import Codes, Grid, Steps
from .recipe import QadRecipe

CHUNK = 256
"""Positions whose logits are in memory at once."""
_WARMUP, _DECAY = 0.05, 0.95
_KEPT_BY_ADAM = ("step", "exp_avg", "exp_avg_sq")
_BETAS = (0.9, 0.99)
"""Of Adam. Few steps are made, so the mean square looks back less far than is usual."""

_LEAST = 0.1
"""Of a scale, what is left at least: one that went through zero would turn its group around."""

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """One step of training."""

    step: int
    kl: float
    """Nats a token, on the tokens of this step."""


def head_kl(student: Tensor, parent: Tensor, head: Tensor) -> tuple[float, Tensor]:
    """The mean KL divergence of the parent's distribution from the student's, and its gradient by
    the student's hidden states. `student`, `parent` `(n, hidden)`, `head` `(vocabulary, hidden)`.

    The gradient by the logits is q - p, so no graph is needed.
    """
    gradient = torch.empty_like(student)
    total = 0.0
    for start in range(0, len(student), CHUNK):
        part = slice(start, start + CHUNK)
        p = (parent[part] @ head.T).float().log_softmax(-1)
        q = (student[part] @ head.T).float().log_softmax(-1)
        difference = p - q
        p = p.exp_()
        total += float((p * difference).sum())
        slope = q.exp_().sub_(p).div_(len(student))
        gradient[part] = slope.to(head.dtype) @ head
    return total / len(student), gradient


class Quantized(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A linear layer whose weight is rounded each time it is used."""

    def __init__(self, codes: Codes, grid: Grid, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        steps = codes.steps
        groups = steps.scale.shape[1]
        self.units = nn.Parameter(codes.codes.unflatten(1, (groups, -1)).float().clone())
        self.scaled = nn.Parameter(torch.zeros_like(steps.size).unsqueeze(-1))
        zero = torch.zeros_like(steps.size) if steps.zero is None else steps.zero.float()
        self.register_buffer("size", steps.size.unsqueeze(-1))
        self.register_buffer("zero", zero.unsqueeze(-1))
        self.bias = bias
        self._steps, self._grid, self._dtype = steps, grid, dtype

    def forward(self, states: Tensor) -> Tensor:
        size = self.size * (1 + self.scaled)
        weight = _Straight.apply(self.units, size, self.zero, self._grid.snap, self._dtype)
        return nn.functional.linear(states.to(self._dtype), weight, self.bias)

    def codes(self) -> Codes:
        """What it has become, its scales rounded to the type that is stored."""
        steps = self._steps
        size = (self.size * (1 + self.scaled.detach())).squeeze(-1)
        scale = size if steps.global_scale is None else size * steps.global_scale
        stored = Steps(
            scale=scale.to(steps.scale.dtype), zero=steps.zero, global_scale=steps.global_scale
        )
        return Codes(codes=self._grid.snap(self.units.detach()).flatten(1), steps=stored)


class _Straight(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """(snap(units) - zero) * size, with a gradient that passes through `snap`."""

    @staticmethod
    def forward(
        ctx: Any,
        units: Tensor,
        size: Tensor,
        zero: Tensor,
        snap: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
    ) -> Tensor:
        codes = snap(units).sub_(zero)
        # Codes of a byte's worth of numbers, halves included, lose nothing in bf16.
        ctx.save_for_backward(codes.to(torch.bfloat16), size)
        return codes.mul_(size).to(dtype).flatten(1)

    @staticmethod
    def backward(ctx: Any, by_weight: Tensor) -> tuple[Tensor | None, ...]:
        codes, size = ctx.saved_tensors
        slope = by_weight.view(codes.shape).float()
        by_size = (slope * codes).sum(-1, keepdim=True)
        return slope.mul_(size), by_size, None, None, None


class Trainer:
    """A student in training. It can be put down after any step, and taken up again."""

    def __init__(
        self,
        student: Any,
        parent: Any,
        codes: Mapping[str, Codes],
        grid: Grid,
        tokens: Tensor,
        recipe: QadRecipe,
    ) -> None:
        """`student` is changed in place; its layers named in `codes` become `Quantized`. `tokens`
        are int64 `(rows, sequence)`, gone through as often as needed. Raises QuantizeError."""
        bends = ("final_logit_softcapping", "logits_scaling", "logit_scale")
        if any(getattr(student.config, each, None) not in (None, 1, 1.0) for each in bends):
            raise QuantizeError(
                f"A {student.config.model_type} model bends its logits, which qad does not know: "
                "leave qad out."
            )
        self.layers = {name: _replace(student, name, each, grid) for name, each in codes.items()}
        self._student, self._parent, self._recipe = student, parent, recipe
        self._rows = max(1, recipe.batch_tokens // tokens.shape[1])
        self._tokens = tokens
        self.steps = max(1, math.ceil(recipe.tokens / (self._rows * tokens.shape[1])))
        self.step = 0
        self._head = parent.lm_head.weight
        self._trained = dict(self._parameters())
        rates = {"units": recipe.codes_rate, "scaled": recipe.scales_rate}
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [each], "rate": rates.get(name.rsplit(".", 1)[1], recipe.norms_rate)}
                for name, each in self._trained.items()
            ],
            lr=0.0,
            betas=_BETAS,
            eps=1e-10,
            weight_decay=0.0,
        )

    def advance(self) -> Progressed:
        """One step."""
        batch = self._batch()
        with torch.no_grad():
            wanted = self._parent.model(input_ids=batch).last_hidden_state.flatten(0, 1)
        said = self._student.model(input_ids=batch).last_hidden_state.flatten(0, 1)
        said = said.to(self._head.dtype)
        with torch.no_grad():
            kl, gradient = head_kl(said, wanted, self._head)
        said.backward(gradient)
        rate = factor(self.step, self.steps, warmup=_WARMUP, decay=_DECAY)
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * rate
        self._optimizer.step()
        for layer in self.layers.values():
            layer.scaled.data.clamp_(min=_LEAST - 1)
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return Progressed(step=self.step, kl=kl)

    def codes(self) -> dict[str, Codes]:
        """By the full names of the layers."""
        return {name: layer.codes() for name, layer in self.layers.items()}

    def norms(self) -> dict[str, Tensor]:
        """The trained weights of norms, by their full names."""
        return {
            name: each.detach()
            for name, each in self._trained.items()
            if name.rsplit(".", 1)[1] not in ("units", "scaled")
        }

    def state(self) -> dict[str, Tensor]:
        """All that a later `resume` needs."""
        told = {"step": torch.tensor(self.step)}
        for name, each in self._trained.items():
            told[f"value {name}"] = each.detach()
            for part, value in self._optimizer.state[each].items():
                told[f"{part} {name}"] = value
        return told

    def resume(self, state: State) -> None:
        """Go on where `state` was taken, of the same student and recipe."""
        self.step = int(state["step"])
        for name, each in self._trained.items():
            with torch.no_grad():
                each.copy_(state[f"value {name}"])
            told = {part: state.get(f"{part} {name}") for part in _KEPT_BY_ADAM}
            known = {part: value for part, value in told.items() if value is not None}
            self._optimizer.state[each] = known  # nothing for what was never used

    def _parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained: units and scales, and the norms in float32."""
        found: dict[str, nn.Parameter] = {}
        for name, module in self._student.named_modules():
            if isinstance(module, Quantized):
                module.units.requires_grad_(self._recipe.codes_rate > 0)
                found |= {f"{name}.units": module.units} if self._recipe.codes_rate > 0 else {}
                found[f"{name}.scaled"] = module.scaled
            elif type(module).__name__.endswith("Norm") and self._recipe.norms_rate > 0:
                dtype = next(module.parameters()).dtype
                # In float32 it would put out float32, which other layers in 16 bits do not take.
                module.register_forward_hook(lambda *told, to=dtype: told[-1].to(to))
                for part, each in module.named_parameters(recurse=False):
                    each.data = each.data.float()
                    each.requires_grad_(True)
                    found[f"{name}.{part}"] = each
        return found

    def _batch(self) -> Tensor:
        """The rows of this step: every row once before any twice, in an order by the seed."""
        first = self.step * self._rows
        rows = []
        for place in range(first, first + self._rows):
            turn, at = divmod(place, len(self._tokens))
            generator = torch.Generator().manual_seed(self._recipe.seed + turn)
            rows.append(int(torch.randperm(len(self._tokens), generator=generator)[at]))
        return self._tokens[rows].to(self._head.device)


def _replace(student: Any, name: str, codes: Codes, grid: Grid) -> Quantized:
    place, _, own = name.rpartition(".")
    plain = student.get_submodule(name)
    layer = Quantized(codes, grid, plain.bias, plain.weight.dtype)
    layer.to(plain.weight.device)
    setattr(student.get_submodule(place), own, layer)
    return layer
