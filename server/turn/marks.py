"""Where the client's cache marks stand in the prompt that was rendered.

A mark stands at the end of a block, and a chat template may do with blocks what it likes: trim
them, leave them out, write tools in front of the system prompt or behind it. So each block is
looked for in the rendered text, in the order in which a prompt has them, and a mark stands where
the last block was found that is not behind it. Where a template rewrites a block that place is too
early, and where one leaves out a text that comes again later, too late. Neither makes a wrong
number of what was read: that is the engine's to say.
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
from .guard import GUARD

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
    if not _any_mark(conversation):
        return []
    search = _Search(text)
    found = list(_of_tools(conversation.tools, search, dialect))
    tools = search.end
    search.end = 0
    found += _of_blocks(conversation.system, search, "system", dialect)
    # A prefix begins with the tools, and many templates write them behind the system prompt.
    search.end = max(search.end, tools)
    if conversation.system and (ttl := conversation.system[-1].cache) is not None:
        found[-1] = Place(search.end, ttl, "system")
    for blocks in _up_to_the_last(conversation):
        found += _of_blocks(blocks, search, "messages", dialect)
    return found


class _Search:
    """Looks for one piece after the other. `end` is where the last one ended that was found."""

    _PATIENCE = 8
    """How many times the text's length is looked through in vain before no more is looked for: a
    request may hold as many pieces that its template does not show as fit into its body."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = self._PATIENCE * len(text) + 1
        self.end = 0

    def pass_over(self, *spellings: str) -> bool:
        """Go to the end of the nearest of a piece's spellings; False where none is found."""
        nearest: tuple[int, int] | None = None
        for spelling in spellings:
            piece = spelling.replace(GUARD, "").strip()
            at = self._text.find(piece, self.end) if piece and self._left > 0 else -1
            if at < 0:
                self._left -= len(self._text) - self.end
            elif nearest is None or at < nearest[0]:
                nearest = (at, at + len(piece))
        if nearest is None:
            return False
        self.end = nearest[1]
        return True


def _any_mark(conversation: Conversation) -> bool:
    turns = (block for turn in conversation.messages for block in turn.content)
    return any(tool.cache for tool in conversation.tools) or any(
        map(_has_mark, (*conversation.system, *turns))
    )


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


def _of_tools(tools: Sequence[Tool], search: _Search, dialect: Dialect) -> Iterator[Place]:
    for tool in tools:
        worded = search.pass_over(dialect.define(tool))
        if not worded and search.pass_over(f'"{tool.name}"'):  # by the template, in its own way
            search.pass_over(as_json(tool.description)[1:-1])
        if tool.cache is not None:
            yield Place(search.end, tool.cache, "tools")


def _of_blocks(
    blocks: Iterable[Block], search: _Search, part: Part, dialect: Dialect
) -> Iterator[Place]:
    for block in blocks:
        match block:
            case TextBlock() | NoteBlock():
                search.pass_over(block.text)
            case ThinkingBlock():
                search.pass_over(block.thinking)
            case ToolUseBlock():
                search.pass_over(as_call(block, dialect.calls))
            case ToolResultBlock():
                yield from _of_result(block, search, part, dialect)
            case ToolDefinitionBlock():
                search.pass_over(dialect.define(block.tool))
            case ImageBlock():
                pass
            case _:
                assert_never(block)
        if block.cache is not None:
            yield Place(search.end, block.cache, part)


def _of_result(
    result: ToolResultBlock, search: _Search, part: Part, dialect: Dialect
) -> Iterator[Place]:
    """What a tool gave back stands in some prompts as a text and in some as JSON."""
    for block in result.content:
        if isinstance(block, TextBlock):
            search.pass_over(block.text, as_json(block.text.strip())[1:-1])
            if block.cache is not None:
                yield Place(search.end, block.cache, part)
        else:
            yield from _of_blocks((block,), search, part, dialect)
