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
from .spelling import COMMON_MARKS, as_call, as_function, as_json, as_lines, as_note, told

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
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *COMMON_MARKS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesDialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "hermes"
    calls: CallMarks = CALLS

    def chat(self, conversation: Conversation) -> Chat:
        conversation = told(conversation, MARKS)
        messages: list[ChatMessage] = []
        if conversation.system:
            messages.append({"role": "system", "content": conversation.system_text})
        for turn in conversation.messages:
            content = in_tags(turn.content, self.thought, self.define)
            messages.append({"role": turn.role, "content": content})
        tools = [as_function(tool) for tool in conversation.tools]
        return Chat(messages=messages, tools=tools, marks=MARKS)

    def define(self, tool: Tool) -> str:
        return as_json(as_function(tool))


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
            return block.text
        case NoteBlock():
            return as_note(block)
        case ThinkingBlock():
            return thought.around(block.thinking) if thought else ""
        case ToolUseBlock():
            return as_call(block, CALLS)
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
