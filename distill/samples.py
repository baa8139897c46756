"""The sample: what one answer of the teacher is worth to a student. docs/samples.md describes the
record as it lies on the disk.

Frozen values only: `shards.py` stores them, `collect.py` makes them, `packing.py` lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from senryu.server.conversation.messages import Conversation, Message

from .prompts.base import Kind

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One answer, with all that came before it.

    `n` tokens in all, `m` of them the teacher's (the last ones: an answer ends its sample), `k`
    stored tokens at each of these.
    """

    id: str
    """The task's digest and the number of the answer in it, as `3fb1...-0`."""
    kind: Kind
    source: str
    held_out: bool
    conversation: Conversation
    """What the teacher was shown."""
    answer: Message
    token_ids: np.ndarray
    """int32 [n]: the prompt as the server renders it, then the answer, its end included."""
    loss_mask: np.ndarray
    """bool [n]: which tokens the student learns to write. Never the user's, the system's or a
    tool's."""
    top_ids: np.ndarray
    """int32 [m, k]; k is 0 where only text is known."""
    top_logprobs: np.ndarray
    """float32 [m, k], see `teachers.base.TopK`."""
    tail: np.ndarray
    """float32 [m]: the probability of all other tokens together, in 0..1."""

    @property
    def answer_length(self) -> int:
        return int(self.loss_mask.sum())
