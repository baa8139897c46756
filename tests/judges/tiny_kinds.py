"""Tiny models of several families, random and made on the spot, and what is told of them.

Their layers have sides of 64 and 96, which every scheme takes, and their vocabulary is numbers: for
tests that give token ids and need no words.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORDS = 64
_SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "dtype": torch.bfloat16,
}


def _llama(**told: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES | told))


def _mistral(**told: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_SIZES | {"sliding_window": 4} | told))


def _qwen2(**told: Any) -> Any:
    """Its attention has biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_SIZES | told))


def _qwen3(**told: Any) -> Any:
    """Its attention has norms of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_SIZES | told))


def _gemma2(**told: Any) -> Any:
    """It scales its embeddings, bends its logits, and has four norms a layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**_SIZES | {"sliding_window": 4} | told))


def _gemma3(**told: Any) -> Any:
    """Some of its layers see a few tokens back only, with positions of their own."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    own = {"sliding_window": 4, "layer_types": kinds}
    return Gemma3ForCausalLM(Gemma3TextConfig(**_SIZES | own | told))


KINDS: dict[str, Callable[..., Any]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}


def tiny(kind: str = "llama", **told: Any) -> Any:
    """A model in bf16 whose norms and biases are random too; the same each time."""
    torch.manual_seed(0)
    model = KINDS[kind](**told).to(torch.bfloat16).eval()
    with torch.no_grad():
        for each in model.parameters():
            if each.ndim == 1:
                each.add_(torch.randn_like(each) / 8)
    return model


def tiny_folder(folder: Path, kind: str = "llama", *, shard: str = "50GB", **told: Any) -> Path:
    tiny(kind, **told).save_pretrained(folder, max_shard_size=shard)
    return folder


def some_tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))
