"""Students of a few thousand weights that read bytes, and samples for them: made in no time, and
nothing about them is like a good model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tiny_model import TEMPLATE

from senryu.distill.prompts.base import Kind
from senryu.distill.samples import Sample
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    Tool,
    ToolUseBlock,
)
from senryu.server.turn.dialects import choose_dialect
from senryu.server.turn.dialects.base import Dialect

WEATHER = Tool(
    name="get_weather",
    description="The weather of a city.",
    input_schema={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)


def byte_tokenizer() -> Any:
    """One token a byte, and two control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_student(seed: int = 0, *, window: int = 2048, vocabulary: int = 258) -> Any:
    """Two layers of random weights in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for weight in model.parameters():  # the usual start is so small that all tokens are alike
            weight.data.mul_(8.0 if weight.dim() > 1 else 1.0)
    return model.eval()


def dialect() -> Dialect:
    return choose_dialect(TEMPLATE, asked=None, named=None)[0]


def asked(text: str, *, tools: Sequence[Tool] = ()) -> Conversation:
    said = Message(role="user", content=(TextBlock(text=text),))
    return Conversation(messages=(said,), tools=tuple(tools))


def answered(text: str = "", *, call: tuple[str, dict[str, Any]] | None = None) -> Message:
    blocks: list[Any] = [TextBlock(text=text)] if text else []
    if call is not None:
        blocks.append(ToolUseBlock(id="toolu_1", name=call[0], input=call[1]))
    return Message(role="assistant", content=tuple(blocks))


def sample(
    id: str = "aa-0",  # noqa: A002  # the record's own name
    *,
    length: int = 24,
    answer: int = 10,
    kind: Kind = "chat",
    held_out: bool = True,
    k: int = 0,
    seed: int = 0,
    vocabulary: int = 258,
    conversation: Conversation | None = None,
    message: Message | None = None,
    source: str = "self",
) -> Sample:
    """Random tokens, the last `answer` of them the teacher's; with `k`, distributions as random."""
    chance = np.random.default_rng(seed)
    mask = np.arange(length) >= length - answer
    logprobs, ids, tail = top_of(chance.normal(size=(answer, vocabulary)) * 2, k)
    return Sample(
        id=id,
        kind=kind,
        source=source,
        held_out=held_out,
        conversation=conversation or asked("How are you?"),
        answer=message or answered("Fine."),
        token_ids=chance.integers(0, vocabulary, length).astype(np.int32),
        loss_mask=mask,
        top_ids=ids,
        top_logprobs=logprobs,
        tail=tail,
    )


def top_of(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities and ids of the k most probable, and the mass of the others."""
    told = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-told, axis=-1)[:, :k]
    kept = np.take_along_axis(told, ids, -1)
    tail = 1 - np.exp(kept).sum(-1)
    return kept.astype(np.float32), ids.astype(np.int32), np.clip(tail, 0, 1).astype(np.float32)
