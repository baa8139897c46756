"""OpenAI's chat completions: an Ask as a request of it, and its stream of chunks. Pure.

Comes in: bodies of the Messages API, as far as workloads have them. What this API has no word for
raises `Unsayable`: a server that was asked for less than another is not the slower or faster one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from senryu.benches.asks import Ask

from .reading import Reading, member, number, sentence
from .sample import Usage

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

Body = dict[str, Any]
Block = Mapping[str, Any]


class Unsayable(ValueError):
    """A request that this API cannot be asked."""


class OpenAI:
    """Chat completions, as OpenAI speaks them."""

    name = "openai"
    path = "/v1/chat/completions"

    def headers(self, key: str) -> list[tuple[str, str]]:
        named = [("accept", "application/json")]
        return [*named, ("authorization", f"Bearer {key}")] if key else named

    def body(self, ask: Ask, model: str) -> bytes:
        """Raises Unsayable."""
        try:
            return orjson.dumps(translated(ask.body) | {"model": model})
        except (AttributeError, LookupError, TypeError) as error:
            raise Unsayable(f"a request that is none of the Messages API: {error!r}") from error

    def reader(self, ask: Ask) -> "ChatReading":
        return ChatReading(ask.form)


OPENAI = OpenAI()


def translated(body: Block) -> Body:
    """A body of the Messages API as one of this. Raises Unsayable."""
    found: Body = {"stream": True, "stream_options": {"include_usage": True}}
    messages = [{"role": "system", "content": _text(body["system"])}] if body.get("system") else []
    messages += [each for message in body["messages"] for each in _messages(message)]
    found["messages"] = messages
    for name, value in body.items():
        if name in ("system", "messages", "metadata") or value is None:
            continue
        if name in _SAME:
            found[name] = value
        elif name in _TRANSLATED:
            found |= _TRANSLATED[name](value)
        else:
            raise Unsayable(f"chat completions have no word for {name!r}")
    return found


def _messages(message: Block) -> Iterable[Body]:
    """A turn is one message, and one more for each result of a tool, which stand before it."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    parts: list[Body] = []
    calls: list[Body] = []
    results: list[Body] = []
    for block in content:
        match block["type"]:
            case "text":
                parts.append({"type": "text", "text": block["text"]})
            case "image":
                url = _image_url(block["source"])
                parts.append({"type": "image_url", "image_url": {"url": url}})
            case "tool_use":
                arguments = orjson.dumps(block["input"]).decode()
                function = {"name": block["name"], "arguments": arguments}
                calls.append({"id": block["id"], "type": "function", "function": function})
            case "tool_result":  # whether it was an error is told by its text alone
                said = _text(block.get("content") or "")
                results.append(
                    {"role": "tool", "tool_call_id": block["tool_use_id"], "content": said}
                )
            case other:
                raise Unsayable(f"chat completions have no word for a block of type {other!r}")
    turn: Body = {"role": role}
    if len(parts) == 1 and parts[0]["type"] == "text":
        turn["content"] = parts[0]["text"]
    elif parts:
        turn["content"] = parts
    elif calls:
        turn["content"] = None
    if calls:
        turn["tool_calls"] = calls
    return [*results, turn] if "content" in turn else results


def _text(content: str | Iterable[Block]) -> str:
    """Of a place that takes text only."""
    if isinstance(content, str):
        return content
    for block in content:
        if block["type"] != "text":
            raise Unsayable(f"chat completions take text here, and no {block['type']!r}")
    return "\n".join(block["text"] for block in content)


def _image_url(source: Block) -> str:
    match source["type"]:
        case "url":
            return str(source["url"])
        case "base64":
            return f"data:{source['media_type']};base64,{source['data']}"
        case other:
            raise Unsayable(f"chat completions take no image from a {other!r}")


def _tools(tools: Iterable[Block]) -> Body:
    return {"tools": [{"type": "function", "function": _function(tool)} for tool in tools]}


def _function(tool: Block) -> Body:
    if "input_schema" not in tool:
        raise Unsayable(f"chat completions have no tool of type {tool.get('type')!r}")
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    return function | {name: tool[name] for name in ("description", "strict") if name in tool}


def _tool_choice(choice: Block) -> Body:
    found: Body = {}
    if choice["type"] == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice["type"] in _CHOICES:
        found["tool_choice"] = _CHOICES[choice["type"]]
    else:
        raise Unsayable(f"chat completions have no tool_choice {choice['type']!r}")
    if "disable_parallel_tool_use" in choice:
        found["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return found


def _output_config(config: Block) -> Body:
    found: Body = {}
    for name, value in config.items():
        if name == "effort":
            found["reasoning_effort"] = value
        elif name == "format" and value["type"] == "json_schema":
            schema = {"name": "answer", "schema": value["schema"], "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            raise Unsayable(f"chat completions have no word for {name!r} of output_config")
    return found


def _thinking(thinking: Block) -> Body:
    """Here models think as they see fit, or as their server was told."""
    if thinking["type"] != "adaptive":
        raise Unsayable(f"chat completions have no thinking that is {thinking['type']!r}")
    return {}


def _context_management(management: Block) -> Body:
    """Thoughts need not be taken out where none is sent."""
    for edit in management.get("edits", ()):
        if not edit["type"].startswith("clear_thinking"):
            raise Unsayable(f"chat completions have no edit of type {edit['type']!r}")
    return {}


_SAME = ("max_tokens", "temperature", "top_p", "top_k")
_TRANSLATED: dict[str, Callable[[Any], Body]] = {
    "stop_sequences": lambda stops: {"stop": list(stops)},
    "tools": _tools,
    "tool_choice": _tool_choice,
    "output_config": _output_config,
    "thinking": _thinking,
    "context_management": _context_management,
}


class ChatReading(Reading):
    """One answer. A chunk that holds text, thought or a piece of a call's input is one piece."""

    def _event(self, name: str, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            if self.stop_reason is None:
                self._fail("cut off", "the stream ended without a finish_reason")
            else:
                self._finish()
            return 0
        told = self._object(data)
        if told is None:
            return 0
        if name == "error" or told.get("error") or told.get("object") == "error":
            self._fail("failed", sentence(told) or "an error that says nothing")
            return 0
        self._count(member(told, "usage"))
        choices = told.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if isinstance(reason, str):
            self.stop_reason = _STOP_REASONS.get(reason, reason)
        return self._piece(member(choice, "delta"))

    def _piece(self, delta: dict[str, Any]) -> int:
        text, calls = delta.get("content"), delta.get("tool_calls")
        piece = bool(text or delta.get("reasoning") or delta.get("reasoning_content"))
        if self._form and isinstance(text, str):
            self._texts.append(text)
        for call in calls if isinstance(calls, list) else ():
            arguments = member(call, "function").get("arguments")
            piece = piece or bool(arguments)
            if self._form and isinstance(call, dict):
                inputs = self._inputs.setdefault(number(call, "index"), [])
                inputs.append(arguments if isinstance(arguments, str) else "")
        return int(piece)

    def _count(self, usage: dict[str, Any]) -> None:
        read, written = number(usage, "prompt_tokens"), number(usage, "completion_tokens")
        if read is None or written is None:
            return
        found = number(member(usage, "prompt_tokens_details"), "cached_tokens")
        self.usage = Usage(input=read - (found or 0), output=written, cache_read=found)
