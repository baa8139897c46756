"""Hermes: calls in `<tool_call>` tags, results in `<tool_response>` tags.

Spoken by Qwen 2.5 and 3, the Hermes models and our own students. How the tools are introduced is
left to the model's own template, which words it as the model was trained; calls, results and
thoughts are spelt here, so that a failed result, a tool learnt of later and a thought between
two calls have their place, and old turns keep their bytes.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

from .base import CallMarks, Chat, ChatMessage, ThoughtMarks

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesDialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "hermes"
    calls: CallMarks = CALLS

    def chat(self, conversation: Conversation) -> Chat:
        messages: list[ChatMessage] = []
        if conversation.system:
            messages.append({"role": "system", "content": conversation.system_text})
        turns = conversation.messages
        if conversation.prefill is not None:
            turns = turns[:-1]
        messages += [{"role": turn.role, "content": self._content(turn)} for turn in turns]
        return Chat(messages=messages, tools=[_function(tool) for tool in conversation.tools])

    def define(self, tool: Tool) -> str:
        return as_json(_function(tool))

    def _content(self, turn: Message) -> str:
        return "".join(self._spelt(turn.content))

    def _spelt(self, blocks: Sequence[Block]) -> Iterator[str]:
        """Calls and results stand on lines of their own, whatever text is around them."""
        before: Block | None = None
        for block in blocks:
            apart = isinstance(block, ToolUseBlock | ToolResultBlock) or isinstance(
                before, ToolResultBlock
            )
            if before is not None and apart and not isinstance(before, ThinkingBlock):
                yield "\n"
            yield self._block(block)
            before = block

    def _block(self, block: Block) -> str:
        match block:
            case TextBlock():
                return block.text
            case ThinkingBlock():
                if self.thought is None:
                    return ""
                return f"{self.thought.opening}{block.thinking}{self.thought.closing}"
            case ToolUseBlock():
                head = self.calls.head_of(block.name)
                return f"{self.calls.opening}{head}{as_json(block.input)}{self.calls.tail}"
            case ToolResultBlock():
                inside = "".join(self._block(part) for part in block.content)
                if block.is_error:
                    inside = f"The tool failed:\n{inside}"
                return f"<tool_response>\n{inside}\n</tool_response>"
            case ToolDefinitionBlock():
                return f"<tools>\n{self.define(block.tool)}\n</tools>"
            case ImageBlock():
                raise NotImplementedError("images have no spelling in this dialect yet")


def _function(tool: Tool) -> dict[str, Any]:
    """A tool in the shape that chat templates take."""
    function = {"name": tool.name, "description": _description(tool)}
    return {"type": "function", "function": function | {"parameters": dict(tool.input_schema)}}


def _description(tool: Tool) -> str:
    examples = [f"Example input: {as_json(example)}" for example in tool.input_examples]
    return "\n".join(filter(None, (tool.description, *examples)))


def as_json(value: Mapping[str, Any]) -> str:
    """JSON as models were trained to write it: a space after comma and colon, letters as such."""
    return json.dumps(value, ensure_ascii=False)
