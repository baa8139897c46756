"""What was lost between a model and the quantized folder made of it, measured on held-out text.

Comes in: both models in memory and passages of token ids. Goes out: `Measures`: how far apart the
two stand at each token, by kind of text; how the error grows from layer to layer; and how far each
weight was moved. Both models read a passage side by side, so that no hidden state is kept longer
than one passage, and logits of the whole vocabulary stand in memory for `CHUNK` positions. It
refuses to know how weights were stored and where passages come from.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senryu.distill.compare import Figure, agreed, kl, ratio, surprise
from senryu.quant.errors import QuantizeError
from senryu.quant.progress import Progress, Silent

CHUNK = 256
ALL = "all"
ANSWERS = "answers"
"""The row over what an assistant said, of all kinds: what the model will write itself."""
_MOVED = 0.1
"""Norms that differ by more were scaled on purpose: training moves them by less."""
Model = Any
"""A causal language model with `.config`, `.model` (with `.layers`) and `.lm_head`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """Text that no weight was fitted to, as the tokens that are served."""

    id: str
    """Turns of one conversation differ in the number behind the last hyphen, if there is one."""
    kind: str
    token_ids: Tensor
    """int64 `(n)`."""
    answer: Tensor
    """bool `(n)`: which of them an assistant said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of text, or all. Each position predicts the token behind it."""

    name: str
    passages: int
    tokens: int
    """Positions."""
    kl: Figure
    """KL(parent || quantized) in nats, the mean over positions."""
    kl_median: float
    kl_p99: float
    """One position in a hundred is further apart than this."""
    agreement: Figure
    """The share of positions, 0 to 1, where both like the same token most."""
    perplexity: Figure
    parent_perplexity: Figure

    @property
    def perplexity_ratio(self) -> float:
        """Quantized over parent."""
        return self.perplexity.value / self.parent_perplexity.value


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightError:
    """How far one linear layer's weight was moved."""

    name: str
    error: float
    """The norm of the difference over the norm of the parent's weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """One quantized model beside its parent."""

    rows: tuple[Row, ...]
    """All text first, then what assistants said, then each kind."""
    layers: tuple[float, ...]
    """Of each decoder layer's output: the length of the difference over the length of the parent's
    vector, the mean over tokens."""
    weights: tuple[WeightError, ...] | None
    """None where scale was moved between weights before they were rounded: they then differ without
    an error."""

    @property
    def all(self) -> Row:
        return self.rows[0]

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)


def measure(
    parent: Model,
    quantized: Model,
    passages: Sequence[Passage],
    *,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Measures:
    """Read all passages with both. Models are moved to `device` and stay there. Raises
    QuantizeError where there is nothing to read, or where a model gives no numbers."""
    readable = [each for each in passages if len(each.token_ids) > 1]
    if not readable:
        raise QuantizeError(
            "There is no held-out text to measure with: name a source that holds some with "
            "--samples."
        )
    _refuse_strangers(parent, quantized, readable)
    progress = progress or Silent()
    progress.begin(len(readable))
    progress.stage("both models read held-out text")
    if device is not None:
        parent.to(device)
        quantized.to(device)
    counted = []
    layers = _Layers(parent.model.layers, quantized.model.layers)
    with torch.inference_mode(), layers.listening():
        for passage in readable:
            counted.append(_read(parent, quantized, passage))
            layers.settle()
            progress.done()
    return Measures(
        rows=tuple(_rows(counted)),
        layers=layers.errors,
        weights=weight_errors(parent, quantized),
    )


def weight_errors(parent: Model, quantized: Model) -> tuple[WeightError, ...] | None:
    """Of each linear layer but the head; None where norms were scaled."""
    mine, its = dict(parent.named_modules()), dict(quantized.named_modules())
    linear = [name for name, each in mine.items() if isinstance(each, nn.Linear)]
    other = dict(quantized.named_parameters())
    for name, vector in parent.named_parameters():
        if vector.ndim == 1 and _relative(vector, other[name]) > _MOVED:
            return None
    return tuple(
        WeightError(name=name, error=_relative(mine[name].weight, its[name].weight))
        for name in linear
        if name.split(".")[-1] != "lm_head"
    )


def _relative(mine: Tensor, its: Tensor) -> float:
    known = mine.detach().float()
    size = float(known.norm())
    return float((its.detach().to(known.device).float() - known).norm()) / size if size else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """What was found at each position of a passage, float64 except for `agreed`."""

    passage: Passage
    answer: np.ndarray
    kl: np.ndarray
    agreed: np.ndarray
    surprise: np.ndarray
    parent_surprise: np.ndarray


def _read(parent: Model, quantized: Model, passage: Passage) -> _Counted:
    window = min(_window(parent), _window(quantized))
    ids = passage.token_ids[:window]
    hidden = [_hidden(model, ids) for model in (parent, quantized)]
    parts: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(ids) - 1, CHUNK):
        stretch = slice(start, min(start + CHUNK, len(ids) - 1))
        told = _logits(parent, hidden[0][stretch])
        guessed = _logits(quantized, hidden[1][stretch])
        after = ids[1:][stretch].to(told.device)
        found = (
            kl(told, guessed),
            agreed(told.argmax(-1), guessed),
            surprise(guessed, after),
            surprise(told, after),
        )
        for part, each in zip(parts, found, strict=True):
            part.append(each.cpu())
    whole = [torch.cat(part).numpy() for part in parts]
    if not np.isfinite(np.concatenate([whole[0], whole[2], whole[3]])).all():
        raise QuantizeError(
            "A model gives no numbers but NaN or infinities, so there is nothing to measure: "
            "quantize again with another scheme."
        )
    answer = passage.answer[1 : len(ids)].numpy()
    return _Counted(passage, answer, whole[0], whole[1], whole[2], whole[3])


def _hidden(model: Model, ids: Tensor) -> Tensor:
    """The last hidden states, one a token."""
    told = model.model(input_ids=ids[None].to(model.lm_head.weight.device), use_cache=False)
    hidden: Tensor = told[0]
    return hidden[0]


def _logits(model: Model, hidden: Tensor) -> Tensor:
    """Families that do something to their logits say so in their config."""
    config = model.config
    logits: Tensor = model.lm_head(hidden).float()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _window(model: Model) -> int:
    return int(getattr(model.config, "max_position_embeddings", 0) or 2**31)


def _rows(counted: Sequence[_Counted]) -> Iterator[Row]:
    yield _row(ALL, counted, lambda each: np.ones_like(each.answer))
    if any(each.answer.any() for each in counted):
        yield _row(ANSWERS, counted, lambda each: each.answer)
    kinds = dict.fromkeys(each.passage.kind for each in counted)
    for kind in kinds if len(kinds) > 1 else ():
        of_kind = [each for each in counted if each.passage.kind == kind]
        yield _row(kind, of_kind, lambda each: np.ones_like(each.answer))


def _row(name: str, counted: Sequence[_Counted], chosen: Callable[[_Counted], np.ndarray]) -> Row:
    masks = [chosen(each) for each in counted]
    told = list(zip(counted, masks, strict=True))
    tokens = [float(mask.sum()) for mask in masks]
    tasks = [re.sub(r"-\d{1,4}$", "", each.passage.id) for each in counted]

    def mean(of: Callable[[_Counted], np.ndarray]) -> Figure:
        figure = ratio([float(of(each)[mask].sum()) for each, mask in told], tokens, tasks)
        assert figure, "there are tokens"
        return figure

    apart = np.concatenate([each.kl[mask] for each, mask in told])
    median, p99 = np.quantile(apart, (0.5, 0.99))
    return Row(
        name=name,
        passages=sum(1 for each in tokens if each),
        tokens=int(sum(tokens)),
        kl=mean(lambda each: each.kl),
        kl_median=float(median),
        kl_p99=float(p99),
        agreement=mean(lambda each: each.agreed),
        perplexity=mean(lambda each: each.surprise).exp(),
        parent_perplexity=mean(lambda each: each.parent_surprise).exp(),
    )


@dataclass(slots=True, eq=False)
class _Layers:
    """Listens to what the decoder layers of both models give, and compares it passage by
    passage."""

    parent: Sequence[nn.Module]
    quantized: Sequence[nn.Module]
    _told: dict[int, Tensor] = field(default_factory=dict)
    _sums: dict[int, float] = field(default_factory=dict)
    _tokens: dict[int, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        hooks = []
        for index, (mine, its) in enumerate(zip(self.parent, self.quantized, strict=True)):
            hooks.append(mine.register_forward_hook(self._keep(index)))
            hooks.append(its.register_forward_hook(self._compare(index)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def errors(self) -> tuple[float, ...]:
        return tuple(self._sums[each] / self._tokens[each] for each in sorted(self._sums))

    def settle(self) -> None:
        """Forget the passage."""
        self._told.clear()

    def _keep(self, index: int) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._told[index] = _states(output)

        return keep

    def _compare(self, index: int) -> Callable[..., None]:
        def compare(module: nn.Module, inputs: Any, output: Any) -> None:
            mine = self._told.pop(index).float()
            apart = (_states(output).float() - mine).norm(dim=-1)
            # The first token's vector is many times longer than others: token by token it counts
            # as one of them.
            relative = apart / mine.norm(dim=-1).clamp(min=torch.finfo().tiny)
            self._sums[index] = self._sums.get(index, 0.0) + float(relative.double().sum())
            self._tokens[index] = self._tokens.get(index, 0) + relative.numel()

        return compare


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _refuse_strangers(parent: Model, quantized: Model, passages: Sequence[Passage]) -> None:
    if len(parent.model.layers) != len(quantized.model.layers):
        raise QuantizeError(
            f"The quantized model has {len(quantized.model.layers)} layers and the parent "
            f"{len(parent.model.layers)}: name the 16-bit folder that it was made of."
        )
    widths = [int(model.lm_head.weight.shape[1]) for model in (parent, quantized)]
    if widths[0] != widths[1]:
        raise QuantizeError(
            f"The quantized model's hidden states have {widths[1]} numbers and the parent's "
            f"{widths[0]}: name the 16-bit folder that it was made of."
        )
    rows = [int(model.lm_head.weight.shape[0]) for model in (parent, quantized)]
    largest = max(int(each.token_ids.max()) for each in passages)
    if rows[0] != rows[1] or largest >= rows[0]:
        raise QuantizeError(
            f"The parent knows {rows[0]} tokens, the quantized model {rows[1]}, and the text holds "
            f"token {largest}: compare a folder with the 16-bit folder that it was made of, on "
            "text of their tokenizer."
        )
    its = {name: each.shape for name, each in quantized.named_parameters()}
    for name, each in parent.named_parameters():
        if its.get(name) != each.shape:
            raise QuantizeError(
                f"The quantized model's {name} has another shape than the parent's: name the "
                "16-bit folder that it was made of."
            )
