"""What the parts of a teacher do on real text: how large they speak, and how much they change.

Comes in: a model and rows of token ids. Goes out: tensors of importance, larger is more. As in
Minitron (Muralidharan et al. 2024) nothing is asked but activations in a forward pass. It refuses
to know what is cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from senryu.distill.errors import DistillError
from senryu.distill.samples import Sample

LONGEST = 512
"""Tokens that are read of one sample."""
TOKENS = 16_384
"""Tokens in all: means over so many hardly move any more, and cost half a minute on a laptop."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Importance:
    """Means over all tokens."""

    ffn: list[Tensor]
    """For each layer, how large each channel of the feed-forward layer is."""
    heads: list[Tensor]
    """For each layer, the norm of each query head's output."""
    hidden: Tensor
    """How large each channel of the residual stream is behind the norms, over all of them."""
    energy: dict[str, Tensor]
    """For each norm, by its name in the model, the share of each channel in the squared norm of
    what it is given: sums to 1."""


def rows_of(samples: Iterable[Sample]) -> list[Tensor]:
    """Token ids to measure on. Raises DistillError without any."""
    rows: list[Tensor] = []
    read = 0
    for sample in samples:
        ids = torch.as_tensor(sample.token_ids[:LONGEST], dtype=torch.long)
        if len(ids) > 1:
            rows.append(ids)
            read += len(ids)
        if read >= TOKENS:
            break
    if not rows:
        raise DistillError(
            "Importance is measured on the teacher's answers and there are none: collect samples "
            "first, or prune by student.keep or student.importance = 'even'."
        )
    return rows


def block_influence(model: Any, rows: Sequence[Tensor]) -> Tensor:
    """For each layer, 1 minus the mean cosine between what goes in and what comes out."""
    layers = model.model.layers
    turned = torch.zeros(len(layers), dtype=torch.float64)

    def watch(place: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
            turned[place] += (1 - cosine).double().sum()

        return hook

    handles = [
        layer.register_forward_hook(watch(place), with_kwargs=True)
        for place, layer in enumerate(layers)
    ]
    return turned / _read(model, rows, handles)


def importance(model: Any, rows: Sequence[Tensor]) -> Importance:
    """All that width pruning asks, in one pass over the rows. The model is like a Llama."""
    layers, width = model.model.layers, model.model.norm.weight.numel()
    head_width = layers[0].self_attn.head_dim
    norms = {name: each for name, each in model.named_modules() if is_residual_norm(name)}
    ffn = [torch.zeros(layer.mlp.down_proj.in_features).double() for layer in layers]
    heads = [
        torch.zeros(layer.self_attn.o_proj.in_features // head_width).double() for layer in layers
    ]
    hidden = torch.zeros(width).double()
    energy = {name: torch.zeros(width).double() for name in norms}

    def channels(place: int) -> Callable[..., None]:
        def hook(module: Any, args: Any) -> None:
            ffn[place] += args[0].abs().flatten(0, -2).double().sum(0)

        return hook

    def outputs(place: int) -> Callable[..., None]:
        def hook(module: Any, args: Any) -> None:
            each = args[0].unflatten(-1, (-1, head_width)).flatten(0, -3)
            heads[place] += each.double().norm(dim=-1).sum(0)

        return hook

    def stream(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden.add_(output.abs().flatten(0, -2).double().sum(0))
            squares = args[0].flatten(0, -2).double().square()
            energy[name] += (squares / squares.sum(-1, keepdim=True).clamp_min(1e-30)).sum(0)

        return hook

    handles = []
    for place, layer in enumerate(layers):
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(channels(place)))
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(outputs(place)))
    handles += [each.register_forward_hook(stream(name)) for name, each in norms.items()]
    tokens = _read(model, rows, handles)
    return Importance(
        ffn=[each / tokens for each in ffn],
        heads=[each / tokens for each in heads],
        hidden=hidden / (tokens * len(norms)),
        energy={name: each / tokens for name, each in energy.items()},
    )


def is_residual_norm(name: str) -> bool:
    """Whether the module of this name reads the residual stream and norms it."""
    last = name.split(".")[-1]
    return name == "model.norm" or last in ("input_layernorm", "post_attention_layernorm")


def _read(model: Any, rows: Sequence[Tensor], handles: list[Any]) -> int:
    """Run the rows through the model, one by one, and take the hooks off; the tokens read."""
    with contextlib.ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(_resting(model))
        for row in rows:
            model.model(input_ids=row[None], use_cache=False)
    return sum(len(row) for row in rows)


@contextlib.contextmanager
def _resting(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
