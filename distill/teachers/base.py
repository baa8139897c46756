"""The teacher seam: who answers, and what an answer carries.

There are two kinds: a model that runs here (`engine.py`), which gives token ids and
distributions, and an endpoint (`endpoint.py`), which gives text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
)

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The most probable tokens at each position of an answer, n positions by k tokens."""

    ids: np.ndarray
    """int32 [n, k], most probable first."""
    logprobs: np.ndarray
    """float32 [n, k], natural logarithms of the teacher's own distribution (temperature 1, no
    cut). Where the answer was held to a grammar, it is the distribution over what that allows, and
    what it forbids is -inf: a row of -inf beyond its first entry, 0.0, stands for one certain
    token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One thing to answer. Asks are answered side by side and in any order."""

    key: str
    """Comes back with the answer."""
    conversation: Conversation
    sampling: Sampling
    demands: Demands
    """Tools that may be called, tool choice, thinking."""
    seed: int
    """For endpoints that take one. A model that runs here draws anew each time: on a CPU vLLM dies
    of a seeded request whose prompt it reads in pieces (docs/lab-notes.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the teacher said."""

    key: str
    message: Message
    """Read by the server's own code: thoughts and calls are blocks."""
    stop_reason: StopReason
    prompt_ids: tuple[int, ...] = ()
    """What the model read; empty for an endpoint."""
    token_ids: tuple[int, ...] = ()
    """What it wrote, the end of the turn included; empty for an endpoint."""
    top: TopK | None = None
    fault: str = ""
    """Why there is no content, where whoever was asked says so. What stands before its first comma
    is short, and alike for the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCard:
    """Who it is."""

    name: str
    folder: Path | None
    """The model folder; None for an endpoint."""
    distributions: bool
    """Whether answers carry token ids and `top`."""
    thinks: bool = False
    dialect: str = "plain"


class Teacher(Protocol):
    """An open teacher."""

    @property
    def card(self) -> TeacherCard: ...

    def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
        """Answers as they are finished, `streams` of them in the making at once; `asks` is drawn
        from as there is room. Raises DistillError when the teacher fails for good."""
        ...

    async def user_turn(
        self, conversation: Conversation | None, *, system: str, sampling: Sampling, seed: int
    ) -> str | None:
        """A user's turn that the teacher makes up: the first, or the one that follows
        `conversation`, which ends with an answer. None when nothing usable came; an endpoint is
        asked for one in words."""
        ...

    async def close(self) -> None: ...
