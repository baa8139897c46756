"""Moves scale between the weights of a decoder layer, so that what rounds badly rounds better.

A linear layer reads what something before it wrote. Divide what is written by a scale for each
feature, multiply the linear layer's columns by the same, and nothing has changed but how far the
numbers of either are apart. `awq` chooses scales for weights that are rounded (Lin et al., "AWQ",
2023, arXiv 2306.00978), `smooth` for inputs that are rounded too (Xiao et al., "SmoothQuant", 2022,
arXiv 2211.10438).

Comes in: a decoder layer and what its linear layers read. Goes out: the same layer, changed in
place, and what each input is now divided by. It refuses to know schemes and files, and decoder
layers that are not built as the table below says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .gptq import lost
from .grids import nearest

if TYPE_CHECKING:
    from .grids import Grid
    from .schemes.base import Read

_WRITER_READERS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),  # attention averages values, feature by feature
    ("mlp.up_proj", ("mlp.down_proj",)),  # what the gate says is multiplied with it
)
"""Who writes what who reads, in layers like Llama's, Mistral's and Qwen's."""
_PARTS = {
    "": {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
}
_HARMLESS = {"act_fn", "rotary_emb", "q_norm", "k_norm"}
"""Parts that may be there besides: they are between no writer and its readers."""
_INSTEAD = "quantize this model without scaling or smoothing"
_ALPHAS = tuple(step / 20 for step in range(20))
"""The exponents that AWQ tries. 0 moves nothing."""


def awq(layer: nn.Module, reads: Mapping[str, Read], grid: Grid) -> Mapping[str, Tensor]:
    """Greater scales for the features that are read with greater size, to the power that loses the
    least. Raises ValueError, half a sentence, for a layer that is built in another way."""

    def choose(weights: Mapping[str, Tensor], read: Read) -> Tensor:
        size = read.moments.fitted.diagonal().clamp(min=1e-30).sqrt()
        size = size.clamp(min=float(size.max()) * 1e-4)  # a feature that is hardly read

        def tried(alpha: float) -> tuple[float, Tensor]:
            scale = size**alpha
            scale = scale / (scale.max() * scale.min()).sqrt()
            error = 0.0
            for weight in weights.values():
                values = nearest(weight * scale, grid).values() / scale
                error += lost(weight, values, read.moments.judged)
            return error, scale

        return min((tried(alpha) for alpha in _ALPHAS), key=lambda each: each[0])[1]

    return _balanced(layer, reads, choose)


def smooth(layer: nn.Module, reads: Mapping[str, Read], alpha: float = 0.5) -> Mapping[str, Tensor]:
    """Each feature's greatest size to the power `alpha` moves from the input into the weights, and
    theirs to the power `1 - alpha` the other way. Raises ValueError, half a sentence, for a layer
    that is built in another way."""

    def choose(weights: Mapping[str, Tensor], read: Read) -> Tensor:
        greatest = torch.stack([each.abs().amax(dim=0) for each in weights.values()]).amax(dim=0)
        scale = read.largest**alpha / greatest ** (1 - alpha)
        # A feature that is never read, or whose weights are all zero, stays as it is.
        usable = (read.largest > 0) & (greatest > 0) & scale.isfinite() & (scale > 0)
        return torch.where(usable, scale, torch.ones_like(scale))

    return _balanced(layer, reads, choose)


def _balanced(
    layer: nn.Module,
    reads: Mapping[str, Read],
    choose: Callable[[Mapping[str, Tensor], Read], Tensor],
) -> dict[str, Tensor]:
    """`choose` sees the weights that will be rounded, by name, and what they read."""
    _check(layer)
    moved: dict[str, Tensor] = {}
    with torch.no_grad():
        for writer, readers in _WRITER_READERS:
            rounded = [name for name in readers if name in reads]
            before = layer.get_submodule(writer)
            linears = {name: layer.get_submodule(name) for name in readers}
            if not rounded or _width(before) != linears[readers[0]].weight.shape[1]:
                continue  # where heads share keys and values, no feature of a value is read alone
            weights = {name: linears[name].weight.float() for name in rounded}
            scale = _divide(before, choose(weights, reads[rounded[0]]))
            for name, linear in linears.items():
                linear.weight.copy_(linear.weight.float() * scale)
                moved[name] = scale
    return moved


def _divide(writer: nn.Module, scale: Tensor) -> Tensor:
    """Returns by what was divided in fact: a norm in 16 bits cannot have every number, and its
    readers can make up for what is missing."""
    weight = _parameter(writer, "weight")
    if weight.ndim == 1:
        old = weight.float().clone()  # of float32 it would be the weight itself
        weight.copy_(old / scale)
        scale = torch.where(weight == 0, scale, old / weight.float())
    else:
        weight.copy_(weight.float() / scale[:, None])
    bias = getattr(writer, "bias", None)
    if isinstance(bias, Tensor):
        bias.copy_(bias.float() / scale)
    return scale


def _check(layer: nn.Module) -> None:
    """Raises ValueError unless the layer is built as the table says, part for part."""
    kind = type(layer).__name__
    for part, expected in _PARTS.items():
        found = {name for name, _ in layer.get_submodule(part).named_children()}
        strange = (found - _HARMLESS) ^ expected if part else found ^ expected
        if strange:
            at = f" in {part}" if part else ""
            raise ValueError(
                f"scales cannot be moved in a {kind}, which differs from Llama's in "
                f"{', '.join(sorted(strange))}{at}: {_INSTEAD}"
            )
    for writer in ("input_layernorm", "post_attention_layernorm"):
        if not _multiplies(layer.get_submodule(writer)):
            raise ValueError(
                f"scales cannot be moved in a {kind}, whose norms do not simply multiply with "
                f"their weight: {_INSTEAD}"
            )


def _multiplies(norm: nn.Module) -> bool:
    """Whether twice the weight, and twice the bias, are twice the output. Gemma's norms multiply
    with 1 + weight, and in 16 bits a weight near -1 could not say how little is left."""
    weight = _parameter(norm, "weight")
    told = {name: value.detach().float() for name, value in norm.named_parameters()}
    some = torch.linspace(-1, 1, len(weight), device=weight.device).square()[None] + 0.5
    with torch.no_grad():
        once = torch.func.functional_call(norm, told, (some,))
        twice = torch.func.functional_call(norm, {n: 2 * v for n, v in told.items()}, (some,))
    return bool(torch.allclose(twice, 2 * once, rtol=1e-4, atol=1e-6))


def _width(writer: nn.Module) -> int:
    return int(_parameter(writer, "weight").shape[0])


def _parameter(module: nn.Module, name: str) -> Tensor:
    found = getattr(module, name, None)
    if not isinstance(found, Tensor):
        raise ValueError(f"scales cannot be moved: a {type(module).__name__} has no {name}")
    return found
