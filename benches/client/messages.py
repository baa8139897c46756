"""The Messages API: a request of it, and its event stream. Pure.

Takes the official shape, and what others make of it: spaces in the JSON, numbers that are null or
missing, events without a name of their own.
"""

from typing import Any

import orjson

from senryu.benches.asks import Ask, Form

from .reading import Reading, member, number, sentence
from .sample import Usage

_DELTA = b"event: content_block_delta\n"
_HOLDS = ("text", "thinking", "partial_json", "citation")
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


class Messages:
    """Messages, as Anthropic speaks it."""

    name = "messages"
    path = "/v1/messages"

    def headers(self, key: str) -> list[tuple[str, str]]:
        named = [("anthropic-version", "2023-06-01"), ("accept", "application/json")]
        # vLLM's own route takes the key of the other API only.
        keyed = [("x-api-key", key), ("authorization", f"Bearer {key}")]
        return named + keyed if key else named

    def body(self, ask: Ask, model: str) -> bytes:
        return orjson.dumps({**ask.body, "model": model, "stream": True})

    def reader(self, ask: Ask) -> "MessagesReading":
        return MessagesReading(ask.form)


MESSAGES = Messages()


class MessagesReading(Reading):
    """One answer."""

    def __init__(self, form: Form | None) -> None:
        super().__init__(form)
        self._begun = False
        self._spoken = False
        self._quick = False
        self._told: dict[str, int] = {}

    def _frame(self, frame: bytes) -> int:
        # Most frames are one more piece, and bytes are enough to see it. Whatever might be empty,
        # a signature or broken off is read with care; so is all of an answer whose form matters.
        if (
            self._quick
            and frame.startswith(_DELTA)
            and frame.endswith(b"}")
            and b'""' not in frame
            and b"null" not in frame
            and b"signature" not in frame
        ):
            return 1
        return super()._frame(frame)

    def _event(self, name: str, data: bytes) -> int:
        told = self._object(data)
        if told is None:
            return 0
        match told.get("type") or name:
            case "content_block_delta":
                return self._delta(number(told, "index"), member(told, "delta"))
            case "content_block_start":
                return self._block(number(told, "index"), member(told, "content_block"))
            case "message_start":
                self._begun = True
                self._count(member(member(told, "message"), "usage"))
                # What stands there of the answer's length is only where it begins.
                self._told.pop("output_tokens", None)
            case "message_delta":
                self._end(told)
            case "message_stop" if self._begun:
                self._finish()
            case "message_stop":
                self._fail("garbled", "a message ended that had not begun")
            case "error":
                self._fail("failed", sentence(told) or "an error that says nothing")
            case _:
                pass  # a ping, or what we do not know yet
        return 0

    def _block(self, index: int | None, block: dict[str, Any]) -> int:
        """Blocks begin empty, though none has to."""
        if block.get("type") == "tool_use":
            self._inputs[index] = []
        return self._piece(block, ("text", "thinking"))

    def _delta(self, index: int | None, delta: dict[str, Any]) -> int:
        part = delta.get("partial_json")
        if self._form and isinstance(part, str) and index in self._inputs:
            self._inputs[index].append(part)
        # A signature is no token, though the first that is seen of a thought that is not shown.
        return self._piece(delta, _HOLDS if self._spoken else (*_HOLDS, "signature"))

    def _piece(self, holder: dict[str, Any], names: tuple[str, ...]) -> int:
        if self._form and isinstance(holder.get("text"), str):
            self._texts.append(holder["text"])
        if not any(holder.get(name) for name in names):
            return 0
        self._spoken = True
        self._quick = self._form is None
        return 1

    def _count(self, usage: dict[str, Any]) -> None:
        """What is null or left out holds as before."""
        found = {name: number(usage, name) for name in _COUNTS}
        self._told |= {name: count for name, count in found.items() if count is not None}

    def _end(self, told: dict[str, Any]) -> None:
        reason = member(told, "delta").get("stop_reason")
        if isinstance(reason, str):
            self.stop_reason = reason
        self._count(member(told, "usage"))
        if "input_tokens" in self._told and "output_tokens" in self._told:
            self.usage = Usage(
                input=self._told["input_tokens"],
                output=self._told["output_tokens"],
                cache_read=self._told.get("cache_read_input_tokens"),
                cache_creation=self._told.get("cache_creation_input_tokens"),
            )
