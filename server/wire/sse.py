"""Block events as server-sent events: one frame of bytes each (contract 2).

The frame of a token is pre-encoded up to its text: at 64 streams this line is the hottest of
the server. No sockets and no clock here.
"""

from typing import Any, assert_never

import orjson

from senryu.server.turn.blocks import (
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    ThinkingAdded,
    ThinkingSigned,
    ThinkingStarted,
    ToolInputAdded,
    ToolUseStarted,
    TurnEnded,
    TurnStarted,
)

from .errors import ApiError
from .responses import (
    NO_EXTRAS,
    Extras,
    closing_extras,
    started_body,
    tool_use_body,
    usage_body,
)

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%%d,"delta":{"type":"%b","%b":%%b}}\n\n'
)
_TEXT_DELTA = _DELTA % (b"text_delta", b"text")
_THINKING_DELTA = _DELTA % (b"thinking_delta", b"thinking")
_SIGNATURE_DELTA = _DELTA % (b"signature_delta", b"signature")
_INPUT_DELTA = _DELTA % (b"input_json_delta", b"partial_json")


def frame(event: BlockEvent, extras: Extras = NO_EXTRAS) -> bytes:
    """The bytes of one event; the end of the turn is `message_delta` and `message_stop`."""
    match event:
        case TextAdded():
            return _TEXT_DELTA % (event.index, orjson.dumps(event.text))
        case ThinkingAdded():
            return _THINKING_DELTA % (event.index, orjson.dumps(event.thinking))
        case ToolInputAdded():
            return _INPUT_DELTA % (event.index, orjson.dumps(event.json))
        case ThinkingSigned(index, signature):
            return _SIGNATURE_DELTA % (index, orjson.dumps(signature))
        case TextStarted(index):
            return _start(index, {"type": "text", "text": "", "citations": None})
        case ThinkingStarted(index):
            return _start(index, {"type": "thinking", "thinking": "", "signature": ""})
        case ToolUseStarted():
            return _start(event.index, tool_use_body(event.id, event.name, {}))
        case BlockEnded(index):
            return _frame("content_block_stop", {"index": index})
        case TurnStarted():
            message = started_body(event.message_id, event.model, event.usage, extras)
            return _frame("message_start", {"message": message})
        case TurnEnded():
            delta = {
                "stop_reason": event.stop_reason,
                "stop_sequence": event.stop_sequence,
                "stop_details": None,
                "container": None,
            }
            data = {"delta": delta, "usage": usage_body(event.usage), **closing_extras(extras)}
            return _frame("message_delta", data) + STOP
        case _:
            assert_never(event)


def error_frame(error: ApiError, request_id: str) -> bytes:
    """The event that takes the place of everything that would have followed (contract 2.7)."""
    return _frame("error", error.body(request_id))


def _start(index: int, block: dict[str, Any]) -> bytes:
    return _frame("content_block_start", {"index": index, "content_block": block})


def _frame(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name} | data))
