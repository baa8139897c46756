"""What more than one dialect needs: the words of others guarded, tools and calls as JSON, a turn
as one text."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, assert_never

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    NoteBlock,
    Role,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.guard import STAND_INS, guarded

from .base import CallMarks

COMMON_MARKS = ("<think>", "</think>", "<system>", "</system>", *STAND_INS)
"""Those of every dialect."""


def told(conversation: Conversation, marks: tuple[str, ...]) -> Conversation:
    """What a dialect spells: the turns that are over (a prefilled answer is still being written),
    neighbouring texts made one, and none of `marks` in what others wrote."""
    turns = conversation.messages if conversation.prefill is None else conversation.messages[:-1]
    system = guarded(conversation.system_text, marks)
    return Conversation(
        messages=tuple(
            replace(turn, content=tuple(_told(turn.role, turn.content, marks))) for turn in turns
        ),
        system=(TextBlock(text=system),) if conversation.system else (),
        tools=tuple(_guarded_tool(tool, marks) for tool in conversation.tools),
    )


def _told(role: Role, blocks: Iterable[Block], marks: tuple[str, ...]) -> Iterator[Any]:
    for block in joined(role, blocks):
        match block:
            case TextBlock() | NoteBlock():
                yield replace(block, text=guarded(block.text, marks))
            case ThinkingBlock():
                yield replace(block, thinking=guarded(block.thinking, marks))
            case ToolUseBlock():
                name, called = guarded(block.name, marks), guarded(block.input, marks)
                yield replace(block, name=name, input=called)
            case ToolResultBlock():
                yield replace(block, content=tuple(_told(role, block.content, marks)))
            case ToolDefinitionBlock():
                yield replace(block, tool=_guarded_tool(block.tool, marks))
            case ImageBlock():
                yield block
            case _:
                assert_never(block)


def _guarded_tool(tool: Tool, marks: tuple[str, ...]) -> Tool:
    return replace(
        tool,
        name=guarded(tool.name, marks),
        description=guarded(tool.description, marks),
        input_schema=guarded(tool.input_schema, marks),
        input_examples=tuple(guarded(example, marks) for example in tool.input_examples),
    )


def joined(role: Role, blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, neighbouring texts made one, so that no mark can hide in the cut.

    Where a text of the model's was cut is nothing to it. What users send in two blocks are two
    things: where no white space sets them apart, a new line does.
    """
    said = ""
    for block in blocks:
        if isinstance(block, TextBlock):
            text = block.text
            touch = said and text and not (said[-1].isspace() or text[0].isspace())
            said += f"\n{text}" if touch and role == "user" else text
            continue
        if said:
            yield TextBlock(text=said)
            said = ""
        yield block
    if said:
        yield TextBlock(text=said)


def as_json(value: object) -> str:
    """JSON as models were trained to write it: a space after comma and colon, letters as such."""
    return json.dumps(value, ensure_ascii=False)


def as_function(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that chat templates take."""
    examples = [f"Example input: {as_json(example)}" for example in tool.input_examples]
    description = "\n".join(filter(None, (tool.description, *examples)))
    function = {"name": tool.name, "description": description}
    return {"type": "function", "function": function | {"parameters": dict(tool.input_schema)}}


def as_call(block: ToolUseBlock, marks: CallMarks) -> str:
    """A call as the model writes it."""
    head = marks.head_of(as_json(block.name)[1:-1])
    return f"{marks.opening}{head}{as_json(block.input)}{marks.tail}"


def as_note(block: NoteBlock) -> str:
    """Chat templates have no turn for it, so this mark is all that tells it from the user's words.
    Every byte of it is part of prompts that are cached: it does not change."""
    return f"\n\n<system>\n{block.text}\n</system>"


def as_lines(blocks: Iterable[Block], spell: Callable[[Block], str]) -> str:
    """A turn as one text: texts and images run on, every other block has lines of its own."""
    said, ran_on = "", False
    for block in blocks:
        runs_on = isinstance(block, TextBlock | ImageBlock)
        own_line = not isinstance(block, NoteBlock) and not (ran_on and runs_on)
        if said and own_line and not said.endswith("\n"):
            said += "\n"
        said += spell(block)
        ran_on = runs_on
    return said
