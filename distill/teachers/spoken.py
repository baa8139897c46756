"""How the two kinds of endpoint are asked, and what they answer.

Comes in: an ask, or the JSON that came back. Goes out: the JSON to send, or a message in our
vocabulary. Pure: no sockets, no retries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from senryu.distill.prompts.wire import conversation_to_json, message_from_json, whole_letters
from senryu.server.conversation.messages import (
    Block,
    Conversation,
    Message,
    NoteBlock,
    StopReason,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.dialects.spelling import as_note

from .base import Ask

Json = dict[str, Any]

_LEAST_THOUGHT = 1024
"""Tokens: the Messages API takes no smaller budget."""


NO_ANSWER = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading raises for what is no answer."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One kind of endpoint."""

    name: str
    path: str
    thinks: bool
    """Whether it can be asked for its thoughts."""
    headers: Callable[[str | None], dict[str, str]]
    """Given the key, if there is one."""
    request: Callable[[Ask, str], Json]
    """The body that asks a model."""
    read: Callable[[Any], tuple[Message, StopReason]]
    """Raises one of `NO_ANSWER`."""


def _messages_headers(key: str | None) -> dict[str, str]:
    version = {"anthropic-version": "2023-06-01"}
    return version | ({"x-api-key": key} if key else {})


def _messages_request(ask: Ask, model: str) -> Json:
    sampling, demands = ask.sampling, ask.demands
    told = conversation_to_json(_public(ask.conversation))
    body: Json = {"model": model, "max_tokens": sampling.max_tokens} | told
    if demands.callable_tools:
        body["tools"] = [_tool(tool) for tool in demands.callable_tools]
        if demands.tool_choice != ToolChoice():
            body["tool_choice"] = _messages_choice(demands.tool_choice)
    if demands.thinking is not None and not _called_without_thought(ask):
        budget = max(_LEAST_THOUGHT, demands.thinking.budget or sampling.max_tokens // 2)
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        body["max_tokens"] += budget
        return body  # who thinks takes no temperature
    return body | _drawn(ask)


def _called_without_thought(ask: Ask) -> bool:
    """Whether a result answers a call that came without a thought: who did not think before a call
    may not begin to behind it."""
    past = [each for each in ask.conversation.messages if each.role == "assistant"]
    if not past:
        return False
    called = any(isinstance(block, ToolUseBlock) for block in past[-1].content)
    return called and not isinstance(past[-1].content[0], ThinkingBlock)


def _messages_choice(choice: ToolChoice) -> Json:
    told: Json = {"type": choice.mode} | ({"name": choice.name} if choice.name else {})
    if not choice.parallel and choice.mode != "none":
        told["disable_parallel_tool_use"] = True
    return told


def _public(conversation: Conversation) -> Conversation:
    """With nothing but what any endpoint of the Messages API knows: a note is text of the user's
    turn, and tools stand in the list of those that may be called, wherever they became known."""
    messages = (
        replace(each, content=tuple(_public_blocks(each.content))) for each in conversation.messages
    )
    return replace(
        conversation, tools=(), messages=tuple(each for each in messages if each.content)
    )


def _public_blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        match block:
            case NoteBlock():
                yield TextBlock(text=as_note(block))
            case ToolResultBlock():
                shown = [each for each in block.content if not _defines(each)]
                yield replace(block, content=tuple(shown))
            case ToolDefinitionBlock():
                pass
            case _:
                yield block


def _defines(block: Block) -> bool:
    return isinstance(block, ToolDefinitionBlock)


def _messages_read(told: Any) -> tuple[Message, StopReason]:
    told = whole_letters(told)
    known = ("text", "thinking", "tool_use")
    content = [block for block in told["content"] if block["type"] in known]
    message = message_from_json({"role": "assistant", "content": content})
    return _checked(message), _reason(told["stop_reason"], {})


def _checked(message: Message) -> Message:
    """As it is. Raises TypeError where a part is not of the kind that it has to be."""
    for block in message.content:
        match block:
            case TextBlock():
                texts: tuple[Any, ...] = (block.text,)
            case ThinkingBlock():
                texts = (block.thinking, block.signature)
            case ToolUseBlock():
                texts = (block.id, block.name)
                if not isinstance(block.input, Mapping):
                    raise TypeError("the input of a call is no object")
            case _:
                raise TypeError(f"an answer holds no {type(block).__name__}")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is no text")
    return message


def _chat_headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _chat_request(ask: Ask, model: str) -> Json:
    sampling, demands = ask.sampling, ask.demands
    body: Json = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "messages": list(_chat_messages(ask)),
        "seed": ask.seed,
    }
    if demands.callable_tools:
        body["tools"] = [
            {"type": "function", "function": _renamed(_tool(tool))}
            for tool in demands.callable_tools
        ]
        body["tool_choice"] = _chat_choice(demands.tool_choice)
        if not demands.tool_choice.parallel:
            body["parallel_tool_calls"] = False
    return body | _drawn(ask)


def _chat_messages(ask: Ask) -> Iterator[Json]:
    conversation = _public(ask.conversation)
    if conversation.system:
        yield {"role": "system", "content": conversation.system_text}
    for message in conversation.messages:
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                said = "".join(part.text for part in block.content if isinstance(part, TextBlock))
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": said}
        calls = [_chat_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
        if calls:
            yield {"role": "assistant", "content": message.text or None, "tool_calls": calls}
        elif message.text:
            yield {"role": message.role, "content": message.text}


def _chat_call(block: ToolUseBlock) -> Json:
    function = {"name": block.name, "arguments": json.dumps(dict(block.input))}
    return {"id": block.id, "type": "function", "function": function}


def _chat_choice(choice: ToolChoice) -> Any:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.mode == "any" else choice.mode


def _chat_read(told: Any) -> tuple[Message, StopReason]:
    choice = whole_letters(told)["choices"][0]
    said = choice["message"]
    blocks: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    if text := _chat_text(said.get("content")):
        blocks.append(TextBlock(text=text))
    for call in said.get("tool_calls") or ():
        function = call["function"]
        read = _arguments(function["arguments"])
        blocks.append(ToolUseBlock(id=call["id"], name=function["name"], input=read))
    words = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    message = _checked(Message(role="assistant", content=tuple(blocks)))
    return message, _reason(choice["finish_reason"], words)


def _chat_text(content: Any) -> Any:
    """Some endpoints give it in parts."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _arguments(text: Any) -> Mapping[str, Any]:
    """What a model wrote wrong fits no schema, and whoever judges the call sees it."""
    if isinstance(text, Mapping):  # as some endpoints have it
        return text
    try:
        read = whole_letters(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        read = text
    return read if isinstance(read, dict) else {"": read}


def _tool(tool: Tool) -> Json:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name} | described | {"input_schema": dict(tool.input_schema)}


def _renamed(tool: Json) -> Json:
    return {("parameters" if key == "input_schema" else key): tool[key] for key in tool}


def _drawn(ask: Ask) -> Json:
    """Only what is not the default everywhere: some models take no other."""
    drawn = {"temperature": ask.sampling.temperature, "top_p": ask.sampling.top_p}
    return {name: value for name, value in drawn.items() if value != 1.0}


def _reason(told: Any, words: Mapping[str, str]) -> StopReason:
    """A reason that we do not know, such as a refusal or a pause, is no end of an answer."""
    try:
        return StopReason(words.get(told, told))
    except ValueError:
        return StopReason.MAX_TOKENS


MESSAGES = Spoken(
    "Messages API", "/v1/messages", True, _messages_headers, _messages_request, _messages_read
)
CHAT = Spoken(
    "chat completions API",
    "/v1/chat/completions",
    False,
    _chat_headers,
    _chat_request,
    _chat_read,
)
