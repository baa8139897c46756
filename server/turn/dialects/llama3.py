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
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.guard import IMAGE, STAND_INS, guarded

from .base import CallMarks, Chat, ChatMessage, Family, ThoughtMarks
from .spelling import as_function, as_json, as_lines, said_turns

CALLS = CallMarks(
    opening='{"name": "',
    head='\0", "parameters": ',
    tail="}",
    separator="\n",
    head_pattern=re.compile(r'(?P<name>[^"\\]+)"\s*,\s*"parameters"\s*:\s*'),
    tail_pattern=re.compile(r"\s*\}"),
    parallel=False,
)
# These templates name a day to the model. The real one would change every prompt at midnight;
# this is the one that they name when nobody tells them.
VARIABLES = {"date_string": "26 Jul 2024"}
MARKS = ("<think>", "</think>", *STAND_INS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Dialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "llama3"
    calls: CallMarks = CALLS

    def chat(self, conversation: Conversation) -> Chat:
        messages: list[ChatMessage] = []
        if conversation.system:
            system = guarded(conversation.system_text, MARKS)
            messages.append({"role": "system", "content": system})
        for turn in said_turns(conversation):
            messages += self._turn(turn)
        tools = [guarded(as_function(tool), MARKS) for tool in conversation.tools]
        return Chat(messages=messages, tools=tools, variables=VARIABLES, marks=MARKS)

    def define(self, tool: Tool) -> str:
        return json.dumps(as_function(tool), ensure_ascii=False, indent=4)

    def _turn(self, turn: Message) -> Iterator[ChatMessage]:
        """Results are turns of their own, before what is said with them."""
        results = [block for block in turn.content if isinstance(block, ToolResultBlock)]
        for result in results:
            yield {"role": "ipython", "content": guarded(_result(result), MARKS)}
        shown = [part for each in results for part in each.content if isinstance(part, ImageBlock)]
        said = [block for block in turn.content if not isinstance(block, ToolResultBlock)]
        if shown or said or not turn.content:
            yield {"role": turn.role, "content": as_lines([*shown, *said], self._block)}

    def _block(self, block: Block) -> str:
        match block:
            case TextBlock():
                return guarded(block.text, MARKS)
            case ThinkingBlock():
                if self.thought is None:
                    return ""
                return self.thought.around(guarded(block.thinking, MARKS))
            case ToolUseBlock():
                called = guarded(as_json(block.input), MARKS)
                return f"{CALLS.opening}{CALLS.head_of(block.name)}{called}{CALLS.tail}"
            case ToolDefinitionBlock():
                return f"There is a new function:\n{guarded(self.define(block.tool), MARKS)}"
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
