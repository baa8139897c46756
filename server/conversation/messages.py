"""The vocabulary: what a conversation is, once the JSON is gone.

Small frozen types that every other part of the server, and distill/, speak in. This file
imports nobody and knows neither the wire, nor a chat template, nor an engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Role = Literal["user", "assistant"]
Ttl = Literal["5m", "1h"]
"""How long the client wants what stands up to a mark to be kept in the prompt cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """A run of text as one party wrote it. `cache`, here and on what follows: the client's mark
    that the prompt is to be cached up to the end of this."""

    text: str
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteBlock:
    """What the operator says in the middle of a conversation, at the end of the user's turn."""

    text: str
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBlock:
    """A picture, for a model that sees."""

    media_type: str
    data: bytes
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBlock:
    """What the model thought before it answered. In a history it is this model's own, verified;
    in an answer `signature` seals it, and `thinking` is empty when the client wants it hidden."""

    thinking: str
    signature: str = ""
    cache: Ttl | None = None
    """Clients mark no thought; one that a marked block left alone takes its mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUseBlock:
    """The model's call of a tool."""

    id: str
    name: str
    input: Mapping[str, Any]
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that the model may call; the client runs it."""

    name: str
    description: str = ""
    input_schema: Mapping[str, Any]
    """JSON Schema 2020-12 of the input, an object at its top; keys in the client's order."""
    input_examples: tuple[Mapping[str, Any], ...] = ()
    strict: bool = False
    enforced: bool = True
    """Whether the grammar holds the input to the schema. Off where the schema is more than the
    engine can hold an answer to: then any JSON object is taken."""
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinitionBlock:
    """A tool that becomes known in the middle of a conversation, at the place where it does."""

    tool: Tool
    cache: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResultBlock:
    """What came of a call."""

    tool_use_id: str
    content: tuple[TextBlock | ImageBlock | ToolDefinitionBlock, ...] = ()
    is_error: bool = False
    cache: Ttl | None = None


Block = (
    TextBlock
    | NoteBlock
    | ImageBlock
    | ThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ToolDefinitionBlock
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of one party. Consecutive entries of a role were merged before this."""

    role: Role
    content: tuple[Block, ...]

    @property
    def text(self) -> str:
        """Its text blocks, in order, joined by nothing."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Everything the model is shown. Messages alternate and begin with the user's."""

    messages: tuple[Message, ...]
    system: tuple[TextBlock, ...] = ()
    tools: tuple[Tool, ...] = ()
    """The tools that it knows from the start, in the client's order; those that it learns of
    later stand in the messages."""

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
class ToolChoice:
    """Which calls the answer may or must hold.

    `auto` leaves it to the model, `any` wants at least one, `tool` wants the one called `name`,
    `none` allows none although the model sees the tools.
    """

    mode: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    parallel: bool = True
    """Whether one answer may hold several calls."""

    @property
    def forced(self) -> bool:
        return self.mode in ("any", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The client wants the model to think first."""

    budget: int | None = None
    """The most tokens to think with; None leaves it to `effort`."""
    effort: Literal["low", "medium", "high", "xhigh", "max"] = "high"
    shown: bool = True
    """Whether the client is told what was thought, or only that it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What form the answer is to have: none of it is text that the model reads."""

    callable_tools: tuple[Tool, ...] = ()
    """The tools that may be called now: those known from the start and those learnt of since,
    less those that were taken away."""
    tool_choice: ToolChoice = ToolChoice()
    thinking: Thinking | None = None
    """Set only for a model that thinks: its answer begins with a thought."""
    output_schema: Mapping[str, Any] | None = None
    """JSON Schema that the text of the answer has to fit; keys in the order of the answer."""


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
    grammar: str | None = None
    """A structural tag (xgrammar's JSON) that every answer fits; None leaves it free."""
    top_logprobs: int = 0
    """How many of the most probable tokens are told with each token that is written."""


class StopReason(StrEnum):
    """Why an answer ended, in the words of the Messages API."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_USE = "tool_use"
    CONTEXT_WINDOW_EXCEEDED = "model_context_window_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one answer. The three input counts sum to the length of the prompt."""

    input_tokens: int
    output_tokens: int
    thinking_tokens: int = 0
    """Those of `output_tokens` that were thought, the closing mark included."""
    cache_read_tokens: int = 0
    cache_creation_5m_tokens: int = 0
    cache_creation_1h_tokens: int = 0

    @property
    def cache_creation_tokens(self) -> int:
        return self.cache_creation_5m_tokens + self.cache_creation_1h_tokens
