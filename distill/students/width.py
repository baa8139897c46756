"""Width pruning: the student is the teacher's most important heads and channels (Minitron,
Muralidharan et al. 2024).

Comes in: the teacher's model, the sizes that are asked for, and what was measured. Goes out: a
model of the same family with slices of the teacher's matrices. Channels of the residual stream go
in all layers at once; heads and feed-forward channels in each layer by its own importance.

A head goes with its group: first whole groups (a KV head and its query heads), then query heads
inside the groups that stay, the same number in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from senryu.distill.errors import DistillError

from . import base
from .measure import Importance, is_residual_norm
from .sizes import Sizes, sizes_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose layers consist of what is sliced here, and of nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kept:
    """Indices into one layer of the teacher, in order."""

    queries: Tensor
    """Rows of the query projection."""
    keys: Tensor
    """Rows of the key and value projections."""
    channels: Tensor


def refuse_family(config: Any) -> None:
    """Raises DistillError for a teacher that is built otherwise."""
    if config.model_type not in FAMILIES:
        raise DistillError(
            f"Width pruning knows the layers of {', '.join(FAMILIES)} and not those of a "
            f"{config.model_type}: take such a teacher, or student.shape = 'depth'."
        )


def prune(model: Any, keep: Sequence[int], sizes: Sizes, measured: Importance) -> Any:
    """A new model of these sizes, out of these layers of the teacher."""
    whole = sizes_of(model.config)
    stream = _most(measured.hidden, sizes.hidden)
    layers = {place: _kept(place, whole, sizes, measured) for place in keep}
    config = planned(model.config, keep, sizes)
    state = {}
    for name, weight in model.state_dict().items():
        placed = _placed(name, keep)
        if placed is not None:
            sliced = _sliced(name, weight, stream, layers)
            if _normed(name) and sizes.hidden < whole.hidden:
                sliced = sliced * _rescale(measured.energy[_module(name)], stream)
            state[placed] = sliced
    return _filled(config, state)


def planned(config: Any, keep: Sequence[int], sizes: Sizes) -> Any:
    """The student's config. Raises DistillError where its family forbids the sizes."""
    fields: dict[str, Any] = sizes.fields | {"num_hidden_layers": len(keep)}
    for name, value in base.by_layer(config).items():
        fields[name] = [value[place] for place in keep]
    return base.changed_config(config, fields)


def _most(importance: Tensor, count: int) -> Tensor:
    """The `count` most important, in their old order; of equals the first."""
    order = torch.sort(importance, descending=True, stable=True).indices
    return torch.sort(order[:count]).values


def _kept(place: int, whole: Sizes, sizes: Sizes, measured: Importance) -> _Kept:
    by_group = measured.heads[place].unflatten(0, (whole.kv_heads, -1))
    each = sizes.heads // sizes.kv_heads
    # A group is worth as much as those of its heads that would stay.
    worth = by_group.topk(each, dim=1).values.sum(1)
    groups = _most(worth, sizes.kv_heads)
    group = whole.heads // whole.kv_heads
    heads = torch.cat([index * group + _most(by_group[index], each) for index in groups])
    return _Kept(
        queries=_rows(heads, whole.head_width),
        keys=_rows(groups, whole.head_width),
        channels=_most(measured.ffn[place], sizes.ffn),
    )


def _rows(heads: Tensor, width: int) -> Tensor:
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _placed(name: str, keep: Sequence[int]) -> str | None:
    """The name that a weight has in the student; None when its layer goes."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"]:
        return name
    place = int(parts[2])
    if place not in keep:
        return None
    parts[2] = str(keep.index(place))
    return ".".join(parts)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _normed(name: str) -> bool:
    return is_residual_norm(_module(name))


def _sliced(name: str, weight: Tensor, stream: Tensor, layers: dict[int, _Kept]) -> Tensor:
    """What stays of one weight or bias."""
    module = _module(name).split(".")[-1]
    if module in ("embed_tokens", "lm_head"):
        return weight[:, stream]
    if _normed(name):
        return weight[stream]
    if module in ("q_norm", "k_norm"):  # over the width of a head, which stays
        return weight
    kept = layers[int(name.split(".")[2])]
    outputs, inputs = {
        "q_proj": (kept.queries, stream),
        "k_proj": (kept.keys, stream),
        "v_proj": (kept.keys, stream),
        "o_proj": (stream, kept.queries),
        "gate_proj": (kept.channels, stream),
        "up_proj": (kept.channels, stream),
        "down_proj": (stream, kept.channels),
    }[module]
    rows = weight[outputs]
    return rows if rows.dim() == 1 else rows[:, inputs]


def _rescale(energy: Tensor, stream: Tensor) -> float:
    """What a norm's weights are multiplied by when channels go.

    RMSNorm divides by the root of a mean over the channels. With the quiet ones gone the mean
    rises although the loud ones are what they were, and all would come out too small.
    """
    kept = float(energy[stream].sum() / energy.sum())
    return math.sqrt(kept * len(energy) / len(stream))


def _filled(config: Any, state: dict[str, Tensor]) -> Any:
    """A model with these weights."""
    from transformers import AutoModelForCausalLM

    config.dtype = torch.float32
    with torch.device("meta"):  # every value is at hand, so none is made up first
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    # Rotary frequencies are computed and no weights.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return base.finished(model)
