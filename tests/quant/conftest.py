"""A tiny Llama made on the spot, and one recorder for progress."""

from typing import Any

import pytest
import torch

VOCABULARY = 64


class Recorder:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.stages: list[str] = []
        self.units = 0
        self.finished = 0

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def begin(self, units: int) -> None:
        self.units = units

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def done(self, detail: str = "") -> None:
        self.finished += 1


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def tiny_llama(width: int = 64) -> Any:
    """Two layers, random weights, shapes that vLLM's kernels could take."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0")
