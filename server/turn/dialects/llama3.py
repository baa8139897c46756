"""Llama 3: a call is a bare JSON object, a result is a turn of its own by `ipython`.

Spoken by Llama 3.1 to 3.3. The model's own template words the tools. It writes a result that is a
text as a quoted string and one that is an object as JSON, so results are objects here: JSON is
what the model was trained to find there, and it gives a failure its place. An object shows no
images: those of results are shown in the user's turn that follows.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    Message,
    NoteBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.guard import IMAGE

from .base import CallMarks, Chat, ChatMessage, Family, ThoughtMarks
from .spelling import COMMON_MARKS, as_call, as_function, as_lines, as_note, joined, told

CALLS = CallMarks(
    opening='{"name": "',
    head='\0", "parameters": ',
    tail="}",
    separator="\n",
    head_pattern=re.compile(r'(?P<name>[^"\\]+)"\s*,\s*"parameters"\s*:\s*'),
    tail_pattern=re.compile(r"\s*\}"),
    parallel=False,
    anywhere=False,
)
# These templates name a day to the model. The real one would change every prompt at midnight;
# this is the one that they name when nobody tells them.
VARIABLES = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Dialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "llama3"
    calls: CallMarks = CALLS

    def chat(self, conversation: Conversation) -> Chat:
        conversation = told(conversation, COMMON_MARKS)
        messages: list[ChatMessage] = []
        if conversation.system:
            messages.append({"role": "system", "content": conversation.system_text})
        for turn in conversation.messages:
            messages += self._turn(turn)
        tools = [as_function(tool) for tool in conversation.tools]
        return Chat(messages=messages, tools=tools, variables=VARIABLES, marks=COMMON_MARKS)

    def define(self, tool: Tool) -> str:
        return json.dumps(as_function(tool), ensure_ascii=False, indent=4)

    def _turn(self, turn: Message) -> Iterator[ChatMessage]:
        """Results are turns of their own, before what is said with them."""
        results = [block for block in turn.content if isinstance(block, ToolResultBlock)]
        for result in results:
            yield {"role": "ipython", "content": _result(result)}
        shown = [part for each in results for part in each.content if isinstance(part, ImageBlock)]
        said = [block for block in turn.content if not isinstance(block, ToolResultBlock)]
        if shown or said or not turn.content:
            blocks = [*shown, *joined(turn.role, said)]  # a result may have stood between two texts
            yield {"role": turn.role, "content": as_lines(blocks, self._block)}

    def _block(self, block: Block) -> str:
        match block:
            case TextBlock():
                return block.text
            case NoteBlock():
                return as_note(block)
            case ThinkingBlock():
                return self.thought.around(block.thinking) if self.thought else ""
            case ToolUseBlock():
                return as_call(block, CALLS)
            case ToolDefinitionBlock():
                return f"There is a new function:\n{self.define(block.tool)}"
            case ImageBlock():
                return IMAGE
            case ToolResultBlock():
                raise AssertionError("results are turns of their own")
            case _:
                assert_never(block)


def _result(block: ToolResultBlock) -> dict[str, Any]:
    said: list[str] = []
    found: list[dict[str, Any]] = []
    for part in block.content:
        match part:
            case TextBlock():
                said.append(part.text)
            case ToolDefinitionBlock():
                found.append(as_function(part.tool))
            case ImageBlock():
                said.append("[an image, shown below]")
            case _:
                assert_never(part)
    result: dict[str, Any] = {"error" if block.is_error else "output": "".join(said)}
    return result | ({"functions": found} if found else {})


def _recognised(template: str) -> bool:
    """Others that know `ipython` would leave out a result that is an object."""
    of_llama = "ipython" in template or "<|python_tag|>" in template
    return of_llama and "content is mapping" in template


FAMILY = Family(
    name="llama3",
    speaks=lambda thought: Llama3Dialect(thought=thought),
    recognises=_recognised,
    sign="takes results as objects, from `ipython`",
)
