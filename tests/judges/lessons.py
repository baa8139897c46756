"""What a trainer needs, made on the spot: a student that knows nothing, and lessons for it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from senryu.distill.recipe import TrainRecipe

VOCABULARY = 50

SHORT = TrainRecipe(
    tokens=600,
    batch_tokens=64,
    sequence=32,
    learning_rate=3e-3,
    checkpoint_steps=3,
    vocabulary_chunk=16,
    precision="float32",
)


def short(**changed: Any) -> TrainRecipe:
    """About ten steps on a tiny student."""
    return dataclasses.replace(SHORT, **changed)


@dataclass(frozen=True, eq=False)
class MadeUp:
    token_ids: np.ndarray
    loss_mask: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    tail: np.ndarray


def made_up(prompt: int, answer: int, *, top_k: int = 4, seed: int = 0) -> MadeUp:
    """A sample with random tokens and a random teacher."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(answer, VOCABULARY)) * 2
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    top = np.argsort(-logprobs, axis=1)[:, :top_k]
    stored = np.take_along_axis(logprobs, top, axis=1)
    return MadeUp(
        token_ids=chance.integers(0, VOCABULARY, prompt + answer).astype(np.int32),
        loss_mask=np.arange(prompt + answer) >= prompt,
        top_ids=top.astype(np.int32),
        top_logprobs=stored.astype(np.float32),
        tail=(1 - np.exp(stored).sum(axis=1)).clip(0).astype(np.float32),
    )


def some(count: int = 12, *, top_k: int = 4) -> list[MadeUp]:
    return [made_up(3 + n % 4, 4 + n % 7, top_k=top_k, seed=n) for n in range(count)]


def tiny_student(layers: int = 2, *, tied: bool = True, seed: int = 0) -> Any:
    """A Llama of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


class Recorder:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.details: list[str] = []
        self.units = 0

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def begin(self, units: int) -> None:
        self.units = units

    def stage(self, name: str) -> None: ...

    def done(self, detail: str = "") -> None:
        self.details.append(detail)
