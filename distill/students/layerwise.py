"""Layer-wise scaling: a student whose later layers are wider than its first (OpenELM, Mehta et al.
2024), from random weights.

KV heads and feed-forward width go in even steps from the first layer to the last; the query heads
are the same everywhere, because vLLM's DeciLM wants it so. Comes in: a recipe and the config of the
model whose vocabulary and proportions it takes. Goes out: the model.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe

from . import base
from .layerwise_config import LayerwiseConfig, block, register
from .sizes import Sizes, check_kv_heads, grown, rounded, sizes_of

# What a Llama has besides its sizes, of which each teacher tells its own.
_KEPT = (
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class DeciLMForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """A Llama with layers of different sizes. It has the name of vLLM's class because that is what
    its folder's config is to say."""

    config_class = LayerwiseConfig

    def __init__(self, config: LayerwiseConfig) -> None:
        super().__init__(config)
        self.model.layers = nn.ModuleList(
            _layer(config, place) for place in range(config.num_hidden_layers)
        )
        self.post_init()


def _layer(config: LayerwiseConfig, place: int) -> LlamaDecoderLayer:
    told = config.block_configs[place]
    kept = {name: getattr(config, name) for name in (*_KEPT, "hidden_act")}
    own = LlamaConfig(**copy.deepcopy(kept))
    for name, value in sizes_of(config).fields.items():
        setattr(own, name, value)
    own.num_key_value_heads = config.num_attention_heads // told.attention.n_heads_in_group
    own.intermediate_size = told.ffn.intermediate_size
    layer = LlamaDecoderLayer(own, place)
    # Which attention is computed with is asked at each step, and changed for the whole model.
    layer.self_attn.config = config
    return layer


def build(recipe: StudentRecipe, config: Any, *, seed: int) -> Any:
    """The student in float32, of random weights."""
    register_model()
    return base.new_model(planned(recipe, config), seed)


def planned(recipe: StudentRecipe, config: Any) -> LayerwiseConfig:
    """Its config. Raises DistillError."""
    if getattr(config, "hidden_act", None) != "silu" or "rope_type" not in (
        getattr(config, "rope_parameters", None) or {}
    ):
        raise DistillError(
            f"A layer-wise student is a Llama inside and a {config.model_type} is too different: "
            "take a teacher like Llama, Qwen or Mistral, or student.shape = 'scratch'."
        )
    sizes = grown(dataclasses.replace(recipe, kv_heads=None), sizes_of(config))
    kv_heads, channels = _kv_heads(recipe, sizes), _channels(recipe, sizes)
    fields = {name: copy.deepcopy(getattr(config, name, None)) for name in _KEPT}
    return LayerwiseConfig(
        **{name: value for name, value in fields.items() if value is not None},
        **sizes.fields | {"num_key_value_heads": max(kv_heads), "intermediate_size": max(channels)},
        block_configs=[
            block(group=sizes.heads // heads, ffn=ffn)
            for heads, ffn in zip(kv_heads, channels, strict=True)
        ],
    )


def register_model() -> None:
    """Lets transformers' AutoModelForCausalLM open such a folder."""
    register()
    AutoModelForCausalLM.register(LayerwiseConfig, DeciLMForCausalLM, exist_ok=True)


def _kv_heads(recipe: StudentRecipe, sizes: Sizes) -> list[int]:
    ends = recipe.kv_range or (sizes.kv_heads, sizes.kv_heads)
    for kv_heads in ends:
        check_kv_heads(sizes.heads, kv_heads, "student.kv_range")
    fits = [each for each in range(1, sizes.heads + 1) if sizes.heads % each == 0]
    return [min(fits, key=lambda each: abs(each - step)) for step in _steps(*ends, sizes.layers)]


def _channels(recipe: StudentRecipe, sizes: Sizes) -> list[int]:
    if min(recipe.ffn_range) <= 0:
        raise DistillError(
            "student.ffn_range takes two numbers above 0, as in [0.5, 2.0]: multiples of the "
            "feed-forward width at the first and at the last layer."
        )
    return [rounded(sizes.ffn * step) for step in _steps(*recipe.ffn_range, sizes.layers)]


def _steps(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * place / max(1, count - 1) for place in range(count)]
