"""Conversations and tasks as JSON, and back: the form in which they lie on the disk.

Comes in: the server's vocabulary, or what `json` made of a line. Goes out: the other of the two,
without a loss either way. The form is that of the Messages API wherever it has one, so that people
and other tools can read it; a note of the operator and a tool that becomes known later, which the
API writes as messages of their own, are blocks here as they are in the vocabulary. It refuses to
judge: what a client sends goes through the server's own reading (`reading.py`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
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
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)

from .base import Task

Json = dict[str, Any]

_HALF_LETTER = re.compile("[\ud800-\udfff]+")


def whole_letters(told: Any) -> Any:
    """JSON without the lone halves of letters (surrogates), which JSON can spell and UTF-8 cannot:
    two that belong together become their letter, any other the sign for what cannot be shown."""
    if isinstance(told, str):
        return _HALF_LETTER.sub(_made_whole, told)
    if isinstance(told, Mapping):
        return {whole_letters(key): whole_letters(each) for key, each in told.items()}
    if isinstance(told, list | tuple):
        return [whole_letters(each) for each in told]
    return told


def _made_whole(halves: re.Match[str]) -> str:
    return halves.group().encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def task_to_json(task: Task) -> Json:
    """One line of prompts.jsonl; what has its default is left out."""
    told: Json = {"id": task.id, "source": task.source, "kind": task.kind}
    if task.held_out:
        told["held_out"] = True
    if task.further_turns:
        told |= {"user_tokens": task.user_tokens, "user_temperature": task.user_temperature}
    return told | asked_to_json(task)


def asked_to_json(task: Task) -> Json:
    """What the teacher is asked, and nothing about where that comes from or what becomes of it."""
    told = conversation_to_json(task.conversation)
    if task.tool_choice != ToolChoice():
        told["tool_choice"] = _choice_to_json(task.tool_choice)
    if task.results:
        told["results"] = list(task.results)
    if task.further_turns:
        told["further_turns"] = task.further_turns
    return told


def task_from_json(told: Mapping[str, Any]) -> Task:
    """Raises KeyError, TypeError or ValueError when it is not what `task_to_json` wrote."""
    return Task(
        id=told["id"],
        source=told["source"],
        kind=told["kind"],
        held_out=told.get("held_out", False),
        conversation=conversation_from_json(told),
        tool_choice=_choice_from_json(told["tool_choice"])
        if "tool_choice" in told
        else ToolChoice(),
        results=tuple(told.get("results", ())),
        further_turns=told.get("further_turns", 0),
        user_tokens=told.get("user_tokens", 96),
        user_temperature=told.get("user_temperature", 1.0),
    )


def conversation_to_json(conversation: Conversation) -> Json:
    """`system`, `tools` and `messages`, as in a request; the first two where there are any."""
    told: Json = {}
    if conversation.system:
        told["system"] = [_block_to_json(block) for block in conversation.system]
    if conversation.tools:
        told["tools"] = [_tool_to_json(tool) for tool in conversation.tools]
    told["messages"] = [message_to_json(message) for message in conversation.messages]
    return told


def conversation_from_json(told: Mapping[str, Any]) -> Conversation:
    """Raises KeyError, TypeError or ValueError when it is not what `conversation_to_json` wrote;
    other keys are passed over."""
    return Conversation(
        system=tuple(TextBlock(text=block["text"]) for block in told.get("system", ())),
        tools=tuple(_tool_from_json(tool) for tool in told.get("tools", ())),
        messages=tuple(message_from_json(message) for message in told["messages"]),
    )


def message_to_json(message: Message) -> Json:
    return {"role": message.role, "content": [_block_to_json(block) for block in message.content]}


def message_from_json(told: Mapping[str, Any]) -> Message:
    """Raises KeyError, TypeError or ValueError when it is not what `message_to_json` wrote."""
    if told["role"] not in ("user", "assistant"):
        raise ValueError(f"{told['role']!r} is no role")
    return Message(role=told["role"], content=_blocks_from_json(told["content"]))


def _block_to_json(block: Block) -> Json:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case NoteBlock():
            return {"type": "note", "text": block.text}
        case ImageBlock():
            data = base64.b64encode(block.data).decode()
            source = {"type": "base64", "media_type": block.media_type, "data": data}
            return {"type": "image", "source": source}
        case ThinkingBlock():
            return {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
        case ToolUseBlock():
            called = {"id": block.id, "name": block.name, "input": dict(block.input)}
            return {"type": "tool_use"} | called
        case ToolResultBlock():
            given: Json = {"type": "tool_result", "tool_use_id": block.tool_use_id}
            given["content"] = [_block_to_json(inner) for inner in block.content]
            return given | ({"is_error": True} if block.is_error else {})
        case ToolDefinitionBlock():
            return {"type": "tool_definition", "tool": _tool_to_json(block.tool)}
    assert_never(block)


def _blocks_from_json(told: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(_block_from_json(block) for block in told)


def _block_from_json(told: Mapping[str, Any]) -> Block:
    match told["type"]:
        case "text":
            return TextBlock(text=told["text"])
        case "note":
            return NoteBlock(text=told["text"])
        case "image":
            source = told["source"]
            data = base64.b64decode(source["data"], validate=True)
            return ImageBlock(media_type=source["media_type"], data=data)
        case "thinking":
            return ThinkingBlock(thinking=told["thinking"], signature=told.get("signature", ""))
        case "tool_use":
            return ToolUseBlock(id=told["id"], name=told["name"], input=told["input"])
        case "tool_result":
            return ToolResultBlock(
                tool_use_id=told["tool_use_id"],
                content=_blocks_from_json(told.get("content", ())),
                is_error=told.get("is_error", False),
            )
        case "tool_definition":
            return ToolDefinitionBlock(tool=_tool_from_json(told["tool"]))
        case other:
            raise ValueError(f"{other!r} is no kind of block")


def _tool_to_json(tool: Tool) -> Json:
    told: Json = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    told["input_schema"] = dict(tool.input_schema)
    if tool.input_examples:
        told["input_examples"] = [dict(example) for example in tool.input_examples]
    if tool.strict:
        told["strict"] = True
    if not tool.enforced:
        told["enforced"] = False
    return told


def _tool_from_json(told: Mapping[str, Any]) -> Tool:
    return Tool(
        name=told["name"],
        description=told.get("description", ""),
        input_schema=told["input_schema"],
        input_examples=tuple(told.get("input_examples", ())),
        strict=told.get("strict", False),
        enforced=told.get("enforced", True),
    )


def _choice_to_json(choice: ToolChoice) -> Json:
    told: Json = {"type": choice.mode}
    if choice.name is not None:
        told["name"] = choice.name
    if not choice.parallel:
        told["disable_parallel_tool_use"] = True
    return told


def _choice_from_json(told: Mapping[str, Any]) -> ToolChoice:
    return ToolChoice(
        mode=told["type"],
        name=told.get("name"),
        parallel=not told.get("disable_parallel_tool_use", False),
    )
