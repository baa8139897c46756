"""The student writes, the teacher scores (GKD, Agarwal et al. 2024): what the student would say
itself is where it has to be right.

Comes in: prompts as token ids, the student, the teacher. Goes out: lessons of the same form as
stored samples, so that one loss serves both. Chance is torch's own, which `train.py` seeds with the
step: the same step writes the same. It refuses to know the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .packing import Lesson


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What the student wrote and the teacher thought about it; a `Lesson`."""

    token_ids: np.ndarray
    loss_mask: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    tail: np.ndarray


def prompt_of(lesson: Lesson) -> np.ndarray:
    """What stands before the first token of the answer."""
    return lesson.token_ids[: int(np.argmax(lesson.loss_mask))]


def write(
    student: Any, teacher: Any, prompts: Sequence[np.ndarray], *, tokens: int, top_k: int
) -> list[Written]:
    """One answer of at most `tokens` tokens to each prompt, scored."""
    with torch.no_grad():
        was_training = student.training
        student.eval()  # gradient checkpointing, which has no cache, is for training alone
        try:
            answers = _answers(student, prompts, tokens, _size(teacher))
        finally:
            student.train(was_training)
        return [
            _scored(teacher, prompt, answer, top_k)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def _size(model: Any) -> int:
    return int(model.lm_head.weight.shape[0])


def _answers(
    student: Any, prompts: Sequence[np.ndarray], tokens: int, readable: int
) -> list[np.ndarray]:
    """Sampled at temperature 1 from the student's own distribution over the tokens that the
    teacher can read too: either may have more rows than their tokenizer has tokens."""
    from transformers import GenerationConfig

    device = next(student.parameters()).device
    longest = max(len(each) for each in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    ends = _ends(student)
    how = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        suppress_tokens=list(range(readable, _size(student))) or None,
    )
    written = student.generate(
        ids.to(device), attention_mask=mask.to(device), generation_config=how
    )
    return [_until(row, ends) for row in written[:, longest:].cpu().numpy()]


def _ends(student: Any) -> list[int]:
    told = student.generation_config.eos_token_id
    if told is None:
        return []
    return [told] if isinstance(told, int) else list(told)


def _until(row: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """A row up to its end token, that one included; padding follows it."""
    found = np.flatnonzero(np.isin(row, ends))
    return row[: found[0] + 1] if len(found) else row


def _scored(teacher: Any, prompt: np.ndarray, answer: np.ndarray, top_k: int) -> Written:
    ids = np.concatenate([prompt, answer]).astype(np.int64)
    device = next(teacher.parameters()).device
    hidden = teacher.model(input_ids=torch.from_numpy(ids)[None].to(device)).last_hidden_state[0]
    logits = teacher.lm_head(hidden[len(prompt) - 1 : -1])
    top_ids, logprobs, tail = stored(logits, top_k)
    mask = np.arange(len(ids)) >= len(prompt)
    return Written(ids, mask, top_ids, logprobs, tail)


def stored(logits: Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most probable tokens, their log-probabilities, and the mass of all others."""
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(min(top_k, logits.shape[-1]), dim=-1)
    rest = logprobs.scatter(1, top.indices, -torch.inf).exp().sum(dim=-1)
    return (
        top.indices.to(torch.int32).cpu().numpy(),
        top.values.cpu().numpy(),
        rest.cpu().numpy(),
    )
