"""Context editing: what a client asks to have left out of a long conversation (contract 1.9).

Conversation in, shorter conversation out, with a report of what went. Pure; how long a
conversation is in tokens is asked of a function.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from .messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)

CLEARED = TextBlock(text="[old tool result cleared]")
"""What stands for a result that went. It is part of prompts that are cached: it does not change."""

Kind = TypeVar("Kind")


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


def apply_edits(
    conversation: Conversation, edits: Sequence[Edit], count: Callable[[Conversation], int]
) -> tuple[Conversation, list[dict[str, Any]]]:
    """The conversation after `edits`, in their order, and an entry for each that did something.

    `count` tells how many tokens a conversation is. What goes depends on nothing but the
    conversation, so that it reads alike each time and stays cached; and none is made longer.
    """
    applied = []
    size = None
    for edit in edits:
        edited, entry = _edited(conversation, edit)
        if edited == conversation:
            continue
        size = count(conversation) if size is None else size
        if not _due(edit, conversation, size):
            continue
        left = count(edited)
        if size - left < (max(edit.at_least, 1) if isinstance(edit, ClearToolUses) else 1):
            continue
        applied.append({**entry, "cleared_input_tokens": size - left})
        conversation, size = edited, left
    return conversation, applied


def _due(edit: Edit, conversation: Conversation, size: int) -> bool:
    """Whether the conversation, of `size` tokens, has come to where the client wants it cut."""
    if isinstance(edit, ClearThinking):
        return True
    uses = len(list(_every(ToolUseBlock, conversation)))
    return (uses if edit.trigger == "tool_uses" else size) > edit.trigger_value


def _edited(conversation: Conversation, edit: Edit) -> tuple[Conversation, dict[str, Any]]:
    match edit:
        case ClearThinking():
            turns, cleared = _without_thinking(conversation.messages, edit)
            entry = {"type": "clear_thinking_20251015", "cleared_thinking_turns": cleared}
        case ClearToolUses():
            turns, cleared = _without_tool_uses(conversation, edit)
            entry = {"type": "clear_tool_uses_20250919", "cleared_tool_uses": cleared}
    return replace(conversation, messages=tuple(turns)), entry


def _without_thinking(
    turns: Sequence[Message], edit: ClearThinking
) -> tuple[Sequence[Message], int]:
    """Thoughts stay in the newest turns that hold any. A turn that held nothing else stays too,
    empty: the parties go on taking turns."""
    thoughtful = [
        index
        for index, turn in enumerate(turns)
        if any(isinstance(block, ThinkingBlock) for block in turn.content)
    ]
    old = [] if edit.keep is None else thoughtful[: -edit.keep or None]
    left = list(turns)
    for index in old:
        content = turns[index].content
        spoken = tuple(block for block in content if not isinstance(block, ThinkingBlock))
        left[index] = replace(turns[index], content=spoken)
    return left, len(old)


def _without_tool_uses(
    conversation: Conversation, edit: ClearToolUses
) -> tuple[Sequence[Message], int]:
    """Every call and every result stays in its place; what they hold goes."""
    results = {result.tool_use_id: result for result in _every(ToolResultBlock, conversation)}
    pairs = [use for use in _every(ToolUseBlock, conversation) if use.id in results]
    old = [use for use in pairs[: -edit.keep or None] if use.name not in edit.exclude_tools]
    shorter = {use.id: _cleared(results[use.id]) for use in old if _is_long(results[use.id])}
    emptied = {
        use.id: replace(use, input={}) for use in old if use.input and _input_goes(use, edit)
    }

    def left(block: Block) -> Block:
        match block:
            case ToolResultBlock():
                return shorter.get(block.tool_use_id, block)
            case ToolUseBlock():
                return emptied.get(block.id, block)
            case _:
                return block

    turns = [
        replace(turn, content=tuple(map(left, turn.content))) for turn in conversation.messages
    ]
    return turns, len(shorter.keys() | emptied.keys())


def _is_long(result: ToolResultBlock) -> bool:
    """Whether clearing would save anything: it does not for a short text or a cleared one."""
    blocks = [block for block in result.content if not isinstance(block, ToolDefinitionBlock)]
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    return len(texts) < len(blocks) or len("".join(texts)) > len(CLEARED.text)


def _cleared(result: ToolResultBlock) -> ToolResultBlock:
    """What it taught of tools stays: they may still be called."""
    tools = (block for block in result.content if isinstance(block, ToolDefinitionBlock))
    return replace(result, content=(CLEARED, *tools))


def _input_goes(use: ToolUseBlock, edit: ClearToolUses) -> bool:
    if isinstance(edit.clear_inputs, bool):
        return edit.clear_inputs
    return use.name in edit.clear_inputs


def _every(kind: type[Kind], conversation: Conversation) -> Iterator[Kind]:
    """The blocks of one kind, oldest first."""
    for turn in conversation.messages:
        for block in turn.content:
            if isinstance(block, kind):
                yield block
