"""The config of a model whose layers differ, and how transformers and vLLM come to know it.

vLLM serves such models as DeciLM (its nemotron_nas.py) and expects a config class that no library
brings. `register` is a plug-in of vLLM's (entry point `vllm.general_plugins` in pyproject.toml): it
runs in each of its processes, before the model's folder is read. They have imported transformers
by then, and this file asks for nothing else.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig


class Part(dict[str, Any]):
    """A JSON object whose keys are attributes too, which is how vLLM reads it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def block(*, group: int, ffn: int) -> Part:
    """One layer: its query heads to a KV head, and the channels of its feed-forward layer."""
    return Part(
        attention=Part(n_heads_in_group=group, no_op=False),
        ffn=Part(intermediate_size=ffn, no_op=False),
    )


class LayerwiseConfig(LlamaConfig):  # type: ignore[misc]  # transformers is untyped
    """A Llama's config, and in `block_configs` what each layer has of its own."""

    model_type = "nemotron-nas"  # under this name vLLM asks each layer for its KV heads
    block_configs: Any = None  # a list, one of `block` for each layer

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        told = self.block_configs
        if told is None:  # transformers makes one without arguments, to compare with
            group = self.num_attention_heads // self.num_key_value_heads
            told = [block(group=group, ffn=self.intermediate_size)] * self.num_hidden_layers
        self.block_configs = [
            block(group=each["attention"]["n_heads_in_group"], ffn=each["ffn"]["intermediate_size"])
            for each in told
        ]


def register() -> None:
    """Tell transformers of the config class; vLLM asks transformers."""
    AutoConfig.register(LayerwiseConfig.model_type, LayerwiseConfig, exist_ok=True)
