"""Plain: for models that were never trained on tools, and whose template knows none.

Tools are worded here, at the end of the system prompt and briefly, since a small model drowns in
text: one line a tool, its input as a signature. Calls, results and thoughts are spelt as in
hermes, so that a student that is trained later finds the marks that it knows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from senryu.server.conversation.messages import Conversation, Tool

from .base import CallMarks, Chat, ChatMessage, Family, ThoughtMarks
from .hermes import CALLS, MARKS, in_tags
from .spelling import as_json, told

# One at a time: a model that never saw a call does not know when it has made enough of them.
ONE_CALL = replace(CALLS, parallel=False)

HOW_TO_CALL = """\
To call a tool, write its name and its input as JSON, and stop:
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>
You are then told the result in <tool_response>."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDialect:
    """`thought` is set for models that think."""

    thought: ThoughtMarks | None = None
    name: str = "plain"
    calls: CallMarks = ONE_CALL

    def chat(self, conversation: Conversation) -> Chat:
        conversation = told(conversation, MARKS)
        parts = [conversation.system_text] if conversation.system else []
        if conversation.tools:
            lines = map(self.define, conversation.tools)
            parts.append("\n".join(["You have these tools:", *lines, HOW_TO_CALL]))
        messages: list[ChatMessage] = []
        if parts:
            messages.append({"role": "system", "content": "\n\n".join(parts)})
        # Who has no tools at first is told how to call when it is given one.
        defined = self.define if conversation.tools else self._explained
        for turn in conversation.messages:
            content = in_tags(turn.content, self.thought, defined)
            messages.append({"role": turn.role, "content": content})
        return Chat(messages=messages, marks=MARKS)

    def define(self, tool: Tool) -> str:
        """`get_weather(city: string, unit?: "c" | "f") - The weather of a city.`"""
        words = [f"{tool.name}({_inputs(tool.input_schema)})"]
        if tool.description:
            words.append(f"- {_in_one_line(tool.description)}")
        words += [f"Example input: {as_json(example)}" for example in tool.input_examples]
        return " ".join(words)

    def _explained(self, tool: Tool) -> str:
        return f"{self.define(tool)}\n{HOW_TO_CALL}"


# What a signature shows of a schema, or what says nothing of the input that it does not; a schema
# with more in it is shown as JSON.
_OF_AN_INPUT = {
    *("$schema", "type", "properties", "required"),
    *("additionalProperties", "title", "description"),
}
_OF_A_VALUE = {"type", "items", "enum", "const", "default", "title", "description"}


def _inputs(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties", {})
    if not _OF_AN_INPUT.issuperset(schema) or not isinstance(properties, Mapping):
        return _compact(schema)
    required = schema.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_value(value)}"
        for name, value in properties.items()
    )


def _value(schema: Any) -> str:
    """`"c" | "f" = "c" (the unit)`"""
    if not isinstance(schema, Mapping) or not _OF_A_VALUE.issuperset(schema):
        return _compact(schema)
    match schema:
        case {"const": only}:
            kind = as_json(only)
        case {"enum": list() as choices}:
            kind = " | ".join(map(as_json, choices))
        case {"type": "array", "items": items}:
            kind = f"[{_value(items)}]"
        case {"type": list() as kinds}:
            kind = " | ".join(map(str, kinds))
        case _:
            kind = str(schema.get("type", "any"))
    if "default" in schema:
        kind += f" = {as_json(schema['default'])}"
    if schema.get("description"):
        kind += f" ({_in_one_line(schema['description'])})"
    return kind


def _in_one_line(text: object) -> str:
    return " ".join(str(text).split())


def _compact(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


FAMILY = Family(
    name="plain",
    speaks=lambda thought: PlainDialect(thought=thought),
    recognises=lambda template: True,
    sign="knows no tools in a way that another dialect does",
)
