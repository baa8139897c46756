"""What the teacher is asked: one frozen type that every source of prompts makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from senryu.server.conversation.messages import Conversation, ToolChoice

Kind = Literal["chat", "tools", "thinking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A conversation that ends with the user's turn, for the teacher to go on with."""

    id: str
    """Hexadecimal digest of what is asked: equal tasks are one task."""
    source: str
    """Where it comes from, for people: `self`, `file prompts.jsonl`, ..."""
    kind: Kind
    conversation: Conversation
    further_turns: int = 0
    """User turns that the teacher writes after its first answer, each with an answer of its own."""
    user_tokens: int = 96
    """The longest of these turns."""
    user_temperature: float = 1.0
    """What they are drawn with."""
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    """`any` or `tool` has the first answer's call forced by a grammar."""
    results: tuple[str, ...] = ()
    """What the tools give back, one for each call in order; the last is given again when calls go
    on. Without any, the teacher plays the tool."""
    held_out: bool = False
    """Never trained on, only measured with."""
