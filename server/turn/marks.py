"""Where the client's cache marks stand in the prompt that was rendered.

A mark stands at the end of a block, and a chat template may do with blocks what it likes: trim
them, leave them out, write tools in front of the system prompt or behind it. So each block is
looked for in the rendered text, in the order in which a prompt has them, and a mark stands where
the last block was found that is not behind it. That place can only be too early, which costs a
few tokens of the count and never a wrong one: what was read from the cache is the engine's to say.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    NoteBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
    Ttl,
)

from .dialects.base import Dialect
from .dialects.spelling import as_call, as_json

Part = Literal["tools", "system", "messages"]


@dataclass(frozen=True, slots=True)
class Place:
    """A mark behind so many characters of a rendered prompt."""

    end: int
    ttl: Ttl
    part: Part


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark behind so many tokens of a prompt."""

    tokens: int
    ttl: Ttl
    part: Part


def grown(marks: Iterable[Mark], images: Sequence[tuple[int, int]]) -> tuple[Mark, ...]:
    """The marks of a prompt each of whose images, which was one token at a place, now is so many:
    `images` are places and lengths."""
    return tuple(
        replace(mark, tokens=mark.tokens + sum(size - 1 for at, size in images if at < mark.tokens))
        for mark in marks
    )


def places(conversation: Conversation, text: str, dialect: Dialect) -> list[Place]:
    """The marks of a conversation in its rendered text, the guards taken out (turn/guard.py)."""
    found = list(_of_tools(conversation.tools, text, dialect))
    end, in_system = _of_blocks(conversation.system, text, 0, "system", dialect)
    found += in_system
    for blocks in _up_to_the_last(conversation):
        end, in_turn = _of_blocks(blocks, text, end, "messages", dialect)
        found += in_turn
    return found


def _up_to_the_last(conversation: Conversation) -> Iterator[Sequence[Block]]:
    """The turns, less those at the end that have no mark."""
    turns = [turn.content for turn in conversation.messages]
    while turns and not any(_has_mark(block) for block in turns[-1]):
        turns.pop()
    yield from turns


def _has_mark(block: Block) -> bool:
    if isinstance(block, ToolResultBlock) and any(inner.cache for inner in block.content):
        return True
    return block.cache is not None


def _of_tools(tools: Sequence[Tool], text: str, dialect: Dialect) -> Iterator[Place]:
    if not any(tool.cache for tool in tools):
        return
    end = 0
    for tool in tools:
        worded = _behind(dialect.define(tool), text, end)
        if worded > end:
            end = worded
        else:  # by the template, in lines of its own
            for piece in (f'"{tool.name}"', as_json(tool.description)[1:-1]):
                end = _behind(piece, text, end)
        if tool.cache is not None:
            yield Place(end, tool.cache, "tools")


def _of_blocks(
    blocks: Iterable[Block], text: str, end: int, part: Part, dialect: Dialect
) -> tuple[int, list[Place]]:
    found = []
    for block in blocks:
        for piece in _spelt(block, dialect):
            if isinstance(piece, str):
                end = _behind(piece, text, end)
            else:
                end, inside = _of_blocks((piece,), text, end, part, dialect)
                found += inside
        if block.cache is not None:
            found.append(Place(end, block.cache, part))
    return end, found


def _spelt(block: Block, dialect: Dialect) -> Iterator[str | Block]:
    """What the text shows of a block: texts of it, and blocks inside it."""
    match block:
        case TextBlock() | NoteBlock():
            yield block.text
        case ThinkingBlock():
            yield block.thinking
        case ToolUseBlock():
            yield as_call(block, dialect.calls)
        case ToolResultBlock():
            yield from block.content
        case ToolDefinitionBlock():
            yield dialect.define(block.tool)
        case ImageBlock():
            return
        case _:
            assert_never(block)


def _behind(piece: str, text: str, start: int) -> int:
    """The end of the first place of `piece` from `start` on; `start` where it has none."""
    piece = piece.strip()
    at = text.find(piece, start)
    return start if at < 0 else at + len(piece)
