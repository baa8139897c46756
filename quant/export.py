"""The one place that knows what vLLM can load.

Comes in: a transformers model in memory and a function that turns a weight into `GroupCodes`.
Goes out: a folder in the compressed-tensors format `pack-quantized` (W4A16), or in plain bf16.
It refuses to know how codes are chosen: round-to-nearest, GPTQ and trained scales all pass
through here and come out exactly as given.

What stays in 16 bits: norms, embeddings, and the head, which shares the embedding's weight in
small models; vLLM does not load that pair in 4 bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .rtn import GroupCodes

KEPT = ("lm_head",)
"""Linear layers that stay in 16 bits."""

KERNEL_MULTIPLE = 32
"""vLLM's CPU kernel for 4-bit weights takes layers whose sides are multiples of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class W4A16:
    """4-bit integer weights in groups, 16-bit activations."""

    group_size: int
    symmetric: bool


Choose = Callable[[str, "Tensor"], "GroupCodes"]
"""Name and weight of a linear layer -> its codes."""

Told = Callable[[str], None]
"""Called with the name of each layer that is done."""


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the layers that `pack` turns into 4 bits, in the model's own order."""
    import torch

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.split(".")[-1] not in KEPT
    ]


def pack(model: PreTrainedModel, scheme: W4A16, choose: Choose, told: Told = lambda n: None) -> Any:
    """Replace every linear layer's weight by its packed codes, in place, one layer at a time.

    Returns what `save` needs to describe the result. Above the model itself this holds one layer
    in float32.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import apply_quantization_config

    names = linear_layers(model)
    for name in names:
        _refuse_shape(name, model.get_submodule(name).weight)
    apply_quantization_config(model, _config(scheme))
    compressor = ModelCompressor.from_pretrained_model(model)
    for name in names:
        module = model.get_submodule(name)
        _pack_layer(module, choose(name, module.weight.data))
        told(name)
    _mark_packed(compressor)
    return compressor


def save(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compressor: Any | None = None,
) -> None:
    """Write weights, config and tokenizer; `compressor` is what `pack` returned, if it ran."""
    with no_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if compressor is not None:
        compressor.update_config(str(folder))


def _config(scheme: W4A16) -> Any:
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
    )

    weights = QuantizationArgs(
        num_bits=4,
        type="int",
        strategy="group",
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
    )
    group = QuantizationScheme(targets=["Linear"], weights=weights)
    return QuantizationConfig(config_groups={"group_0": group}, ignore=list(KEPT))


def _pack_layer(module: Any, codes: GroupCodes) -> None:
    """Hand one layer's codes to the library, which packs eight of them into each int32."""
    import torch
    from compressed_tensors.compressors.base import compress_module

    # The library takes weights, not codes, and rounds them itself. Given exactly the values that
    # the codes stand for, in float32, it finds the same codes again, however they were chosen.
    module.weight = torch.nn.Parameter(codes.values(), requires_grad=False)
    module.weight_scale = torch.nn.Parameter(codes.scale, requires_grad=False)
    zero = codes.zero if codes.zero is not None else torch.zeros_like(codes.scale, dtype=torch.int8)
    module.weight_zero_point = torch.nn.Parameter(zero, requires_grad=False)
    compress_module(module)


def _mark_packed(compressor: Any) -> None:
    from compressed_tensors.quantization import QuantizationStatus

    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED


def _refuse_shape(name: str, weight: Tensor) -> None:
    if any(side % KERNEL_MULTIPLE for side in weight.shape):
        rows, columns = weight.shape
        raise ValueError(
            f"Layer {name} is {rows} x {columns} and vLLM's CPU kernel takes 4-bit layers whose "
            f"sides are multiples of {KERNEL_MULTIPLE}: serve this model in bf16."
        )


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """transformers draws a bar of its own while it loads and saves; ours already stands there."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
