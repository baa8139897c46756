"""Attention over packed rows on a CPU: each sample by itself.

Comes in: a model, then its queries, keys and values with the samples' sizes. Goes out: the same
numbers as with a mask that hides the other samples, but what is hidden is not computed either: rows
of 512 with samples of 200 take a fifth of the work. (A GPU computes a masked row at once, and many
small pieces slowly.) It refuses to know what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

NAME = "senryu-sample-by-sample"

PLAIN = ("llama", "nemotron-nas", "mistral", "qwen2", "qwen3")
"""Families whose attention is nothing but causal, unless they have a window."""


@contextmanager
def by_sample(model: Any) -> Iterator[None]:
    """For this while the model takes `sizes`, and attends sample by sample where that is known to
    be the same. It is as it was afterwards, and without `sizes` all the time."""
    config = model.config
    before = config._attn_implementation
    suits = (
        before == "sdpa"
        and config.model_type in PLAIN
        and not getattr(config, "sliding_window", None)
        and next(model.parameters()).device.type == "cpu"
    )
    if not suits:
        yield
        return
    _register()
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sizes: Sequence[int] | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer; queries are [rows, heads, sequence, width]."""
    if sizes is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        told: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **rest
        )
        return told
    rows, heads, sequence, width = query.shape
    # Rows end to end, split once: its gradient is one concatenation. Rotation has made queries
    # and keys float32 where the products are computed in less.
    parts = [_flat(each.to(value.dtype), heads).split(list(sizes)) for each in (query, key, value)]
    attended = [
        torch.nn.functional.scaled_dot_product_attention(
            *(each.transpose(0, 1)[None] for each in part),
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
        )[0].transpose(0, 1)
        for part in zip(*parts, strict=True)
    ]
    return torch.cat(attended).view(rows, sequence, heads, width), None


def _flat(states: Tensor, heads: int) -> Tensor:
    """[rows * sequence, heads, width], a key's head repeated for each of its queries'."""
    states = states.transpose(1, 2).flatten(0, 1)
    if states.shape[1] == heads:
        return states
    return states.repeat_interleave(heads // states.shape[1], dim=1)
