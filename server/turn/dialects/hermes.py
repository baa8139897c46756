"""Hermes: calls in `<tool_call>` tags, results in `<tool_response>` tags.

Spoken by Qwen 2.5 and 3, the Hermes models and our own students. How the tools are introduced is
left to the model's own template, which words it as the model was trained; calls, results and
thoughts are spelt here, so that a failed result, a tool learnt of later and a thought between
two calls have their place, and old turns keep their bytes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
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

THOUGHT = ThoughtMarks(
    opening="<think>\n", closing="</think>\n\n", skipped="<think>\n\n</think>\n\n"
)
CALLS = CallMarks(
    opening="<tool_call>",
    head='\n{"name": "\0", "arguments": ',
    tail="}\n</tool_call>",
    separator="\n",
    head_pattern=re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"arguments"\s*:\s*'),
    tail_pattern=re.compile(r"\s*\}\s*</tool_call>"),
)
MARKS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>", *STAND_INS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesDialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "hermes"
    calls: CallMarks = CALLS

    def chat(self, conversation: Conversation) -> Chat:
        messages: list[ChatMessage] = []
        if conversation.system:
            system = guarded(conversation.system_text, MARKS)
            messages.append({"role": "system", "content": system})
        for turn in said_turns(conversation):
            content = in_tags(turn.content, self.thought, self._guarded)
            messages.append({"role": turn.role, "content": content})
        tools = [guarded(as_function(tool), MARKS) for tool in conversation.tools]
        return Chat(messages=messages, tools=tools, marks=MARKS)

    def define(self, tool: Tool) -> str:
        return as_json(as_function(tool))

    def _guarded(self, tool: Tool) -> str:
        return guarded(self.define(tool), MARKS)


def _recognised(template: str) -> bool:
    """Others put something else than JSON between these tags."""
    calls = "<tool_call>" in template and re.search(r'"arguments\\?"', template)
    return bool(calls and re.search(r"\btools\b", template))


FAMILY = Family(
    name="hermes",
    speaks=lambda thought: HermesDialect(thought=thought),
    recognises=_recognised,
    sign="writes calls as JSON in <tool_call> tags",
)


def in_tags(
    blocks: Sequence[Block], thought: ThoughtMarks | None, define: Callable[[Tool], str]
) -> str:
    """A turn as one text, with `define` for the tools that it brings."""
    return as_lines(blocks, lambda block: _in_tags(block, thought, define))


def _in_tags(block: Block, thought: ThoughtMarks | None, define: Callable[[Tool], str]) -> str:
    match block:
        case TextBlock():
            return guarded(block.text, MARKS)
        case ThinkingBlock():
            if thought is None:
                return ""
            return thought.around(guarded(block.thinking, MARKS))
        case ToolUseBlock():
            head = CALLS.head_of(block.name)
            called = guarded(as_json(block.input), MARKS)
            return f"{CALLS.opening}{head}{called}{CALLS.tail}"
        case ToolResultBlock():
            inside = in_tags(block.content, thought, define)
            if block.is_error:
                inside = f"The tool failed:\n{inside}"
            return f"<tool_response>\n{inside}\n</tool_response>"
        case ToolDefinitionBlock():
            return f"<tools>\n{define(block.tool)}\n</tools>"
        case ImageBlock():
            return IMAGE
        case _:
            assert_never(block)
