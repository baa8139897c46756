"""Context editing: what a client asks to have left out of a long conversation (contract 1.9).

Conversation in, shorter conversation out, with a report of what went. Pure; how long a
conversation is in tokens is asked of a function.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearToolUses:
    """`clear_tool_uses_20250919`: old results give way, oldest first."""

    trigger: Literal["input_tokens", "tool_uses"] = "input_tokens"
    trigger_value: int = 100_000
    keep: int = 3
    """The newest pairs of call and result stay."""
    at_least: int = 0
    """Tokens that have to be won, or nothing is cleared."""
    exclude_tools: frozenset[str] = frozenset()
    clear_inputs: bool | frozenset[str] = False
    """Whether the inputs of the calls go too; a set names the tools whose do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearThinking:
    """`clear_thinking_20251015`: thoughts of old turns go; `keep` None keeps all."""

    keep: int | None = None


Edit = ClearToolUses | ClearThinking
