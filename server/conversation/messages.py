"""The vocabulary: what a conversation is, once the JSON is gone.

Small frozen types that every other part of the server, and distill/, speak in. This file
imports nobody and knows neither the wire, nor a chat template, nor an engine.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """A run of text as one party wrote it."""

    text: str


def system_note(text: str) -> TextBlock:
    """What the operator says in the middle of a conversation, for the end of the user's turn.

    Chat templates have no such turn, so this mark is all that tells it from the user's words.
    Every byte of it is part of prompts that are cached: it does not change.
    """
    return TextBlock(text=f"\n\n<system>\n{text}\n</system>")


# The union grows with the contract: images, tool calls and thinking come to stand here.
Block = TextBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of one party. Consecutive entries of a role were merged before this."""

    role: Role
    content: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The text of all blocks, in order, joined by nothing: blocks carry their own spaces."""
        return "".join(block.text for block in self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Everything the model is shown. Messages alternate and begin with the user's."""

    messages: tuple[Message, ...]
    system: tuple[TextBlock, ...] = ()

    @property
    def system_text(self) -> str:
        """The system blocks concatenated, untrimmed; empty when there is no system prompt."""
        return "".join(block.text for block in self.system)

    @property
    def prefill(self) -> str | None:
        """The start of the answer that the client wrote itself, when the last turn is its own."""
        last = self.messages[-1]
        return last.text if last.role == "assistant" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw the answer.

    `temperature` 0 is greedy. `top_p` in (0, 1], `top_k` 0 means all tokens. `max_tokens` 0
    asks for the prompt to be read and nothing to be written.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_sequences: tuple[str, ...] = ()


class StopReason(StrEnum):
    """Why an answer ended, in the words of the Messages API."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    CONTEXT_WINDOW_EXCEEDED = "model_context_window_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one answer. The three input counts sum to the length of the prompt."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
