"""What every answer has to be, whatever was asked: the contract's shapes as a judge.

In:  a response's parts, as they came. Out: nothing, or an AssertionError that says what is wrong;
a stream also gives the message that a client would have put together. Nothing of the server is
imported here, so that a mistake there cannot excuse itself.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
}
STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "model_context_window_exceeded",
}
MESSAGE_KEYS = {
    "model",
    "id",
    "type",
    "role",
    "content",
    "stop_reason",
    "stop_sequence",
    "stop_details",
    "container",
    "usage",
}
USAGE_KEYS = {
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "service_tier",
    "inference_geo",
    "speed",
}
# What a block holds when it opens, and the deltas that may fill it.
OPENINGS = {
    "text": {"type": "text", "text": "", "citations": None},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}


def check_error(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The contract's error body (3.1), and nobody else's; what it says, for further questions."""
    assert status in TYPES, f"{status}: {body[:500]!r}"
    assert headers["content-type"] == "application/json"
    told: dict[str, Any] = json.loads(body)
    assert set(told) == {"type", "error", "request_id"}, told
    assert told["type"] == "error"
    error: dict[str, Any] = told["error"]
    assert set(error) - {"details"} == {"type", "message"}, told
    assert error["type"] == TYPES[status]
    assert error["message"]
    assert "Traceback" not in error["message"]
    assert isinstance(error.get("details", {}), dict)
    assert re.fullmatch(r"req_[A-Za-z0-9_]{20,}", told["request_id"])
    assert told["request_id"] == headers["request-id"]
    return error


def check_message(message: Mapping[str, Any]) -> None:
    """A whole message (1.10), whether it came whole or was put together."""
    assert set(message) - {"diagnostics", "context_management"} == MESSAGE_KEYS
    assert re.fullmatch(r"msg_[A-Za-z0-9_]{20,}", message["id"])
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert message["stop_reason"] in STOP_REASONS
    assert (message["stop_sequence"] is not None) == (message["stop_reason"] == "stop_sequence")
    assert (message["stop_details"], message["container"]) == (None, None)
    kinds = [block["type"] for block in message["content"]]
    for block in message["content"]:
        _check_block(block)
    if message["stop_reason"] == "tool_use":
        assert "tool_use" in kinds
    if "tool_use" in kinds:
        called = kinds.index("tool_use")
        assert "text" not in kinds[called:], "there is text after a call"
    _check_usage(message["usage"])


def _check_block(block: Mapping[str, Any]) -> None:
    match block["type"]:
        case "text":
            assert set(block) == {"type", "text", "citations"}
            assert block["text"]
            assert block["citations"] is None
        case "thinking":
            assert set(block) == {"type", "thinking", "signature"}
            assert isinstance(block["thinking"], str)
            assert block["signature"]
        case "tool_use":
            assert set(block) == {"type", "id", "name", "input", "caller"}
            assert re.fullmatch(r"toolu_[A-Za-z0-9_]{20,}", block["id"])
            assert block["name"]
            assert isinstance(block["input"], dict)
            assert block["caller"] == {"type": "direct"}
        case other:
            raise AssertionError(f"no block of ours: {other}")


def _check_usage(usage: Mapping[str, Any]) -> None:
    assert set(usage) == USAGE_KEYS
    written = usage["cache_creation"]
    assert sum(written.values()) == usage["cache_creation_input_tokens"]
    assert prompt_tokens(usage) > 0
    thought = usage["output_tokens_details"]["thinking_tokens"]
    assert 0 <= thought <= usage["output_tokens"]
    assert (usage["service_tier"], usage["speed"]) == ("standard", "standard")


def prompt_tokens(usage: Mapping[str, Any]) -> int:
    """The length of the prompt, by the contract's identity."""
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(usage[kind] for kind in kinds)


def frames(body: str) -> Iterator[dict[str, Any]]:
    """The events of a stream: each framed as 2.1 wants it, its name that of its data."""
    assert body.endswith("\n\n")
    for frame in body.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        yield event


def check_stream(body: str) -> dict[str, Any]:
    """A stream that ends well (2.2 to 2.4); the message that its events add up to."""
    events = [event for event in frames(body) if event != {"type": "ping"}]
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message: dict[str, Any] = events[0]["message"]
    assert message["content"] == []
    assert (message["stop_reason"], message["stop_sequence"]) == (None, None)
    assert message["usage"]["output_tokens"] >= 1
    content = list(_blocks(events[1:-2]))
    closing = events[-2]
    prompt = prompt_tokens(message["usage"])
    usage = message["usage"] | {k: v for k, v in closing["usage"].items() if v is not None}
    assert prompt_tokens(usage) == prompt
    assert set(closing["delta"]) == {"stop_reason", "stop_sequence", "stop_details", "container"}
    whole = message | {"content": content} | closing["delta"] | {"usage": usage}
    if "context_management" in closing:
        whole["context_management"] = closing["context_management"]
    check_message(whole)
    return whole


def _blocks(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Start, deltas, stop, and then the next: indices without gaps, never two open at once."""
    rest = iter(events)
    for index, start in enumerate(rest):
        assert (start["type"], start["index"]) == ("content_block_start", index)
        deltas = []
        for event in rest:
            assert event["index"] == index
            if event["type"] == "content_block_stop":
                break
            assert event["type"] == "content_block_delta"
            deltas.append(event["delta"])
        else:
            raise AssertionError(f"block {index} never ends")
        yield _filled(start["content_block"], deltas)


def _filled(block: dict[str, Any], deltas: list[dict[str, Any]]) -> dict[str, Any]:
    kind = block["type"]
    assert deltas, f"an empty {kind} block"
    if kind in OPENINGS:
        assert block == OPENINGS[kind]
    else:
        assert block["input"] == {}
    said = dict.fromkeys(DELTAS[kind].values(), "")
    for delta in deltas:
        key = DELTAS[kind][delta["type"]]
        assert set(delta) == {"type", key}
        said[key] += delta[key]
    if kind == "thinking":
        signed = [delta["type"] == "signature_delta" for delta in deltas]
        assert signed.count(True) == 1
        assert signed[-1], "the signature is not last"
    if kind == "tool_use":
        return block | {"input": json.loads(said["partial_json"] or "{}")}
    return block | said
