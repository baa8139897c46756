"""What more than one dialect needs: tools as JSON, neighbouring texts as one."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from senryu.server.conversation.messages import Block, Conversation, Message, TextBlock, Tool

UNSEEN = "intake lets no image through to a model that does not see, and no dialect has eyes yet"


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
