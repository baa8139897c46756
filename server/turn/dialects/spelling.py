"""What more than one dialect needs: tools as JSON, a turn as one text."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    Tool,
)


def as_json(value: object) -> str:
    """JSON as models were trained to write it: a space after comma and colon, letters as such."""
    return json.dumps(value, ensure_ascii=False)


def as_function(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that chat templates take."""
    examples = [f"Example input: {as_json(example)}" for example in tool.input_examples]
    description = "\n".join(filter(None, (tool.description, *examples)))
    function = {"name": tool.name, "description": description}
    return {"type": "function", "function": function | {"parameters": dict(tool.input_schema)}}


def said_turns(conversation: Conversation) -> tuple[Message, ...]:
    """The turns that are over: a prefilled answer is still being written."""
    turns = conversation.messages
    return turns if conversation.prefill is None else turns[:-1]


def as_lines(blocks: Sequence[Block], spell: Callable[[Block], str]) -> str:
    """A turn as one text: texts and images run on, every other block has lines of its own."""
    said, ran_on = "", False
    for block in joined(blocks):
        runs_on = isinstance(block, TextBlock | ImageBlock)
        if said and not said.endswith("\n") and not (ran_on and runs_on):
            said += "\n"
        said += spell(block)
        ran_on = runs_on
    return said


def joined(blocks: Sequence[Block]) -> Iterator[Block]:
    """The blocks, neighbouring texts made one: where a text was cut is nothing to the model, and
    no mark can hide in the cut."""
    texts: list[str] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
            continue
        if texts:
            yield TextBlock(text="".join(texts))
            texts.clear()
        yield block
    if texts:
        yield TextBlock(text="".join(texts))
