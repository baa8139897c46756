"""Every event becomes one frame that an SSE reader reads back unchanged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import StopReason, Usage
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
from senryu.server.wire.errors import EngineFailed
from senryu.server.wire.responses import Extras, started_body, usage_body
from senryu.server.wire.sse import PING, STOP, error_frame, frame

USAGE = Usage(input_tokens=3, output_tokens=0)
STARTED = TurnStarted(message_id="msg_1", model="m", usage=USAGE)
ENDED = TurnEnded(
    stop_reason=StopReason.STOP_SEQUENCE,
    stop_sequence="\n\n",
    usage=Usage(input_tokens=3, output_tokens=5),
)


def read(data: bytes) -> list[tuple[str, Any]]:
    """What a client reads: SSE as the standard words it, on these bytes."""
    assert data.endswith(b"\n\n")
    events = []
    for block in data.decode().removesuffix("\n\n").split("\n\n"):
        name, body = block.split("\n")
        assert name.startswith("event: ")
        assert body.startswith("data: ")
        events.append((name.removeprefix("event: "), json.loads(body.removeprefix("data: "))))
    return events


@pytest.mark.parametrize(
    "data",
    [
        frame(STARTED),
        frame(TextStarted(0)),
        frame(TextAdded(0, "hi")),
        frame(ThinkingStarted(0)),
        frame(ThinkingAdded(0, "hm")),
        frame(ThinkingSigned(0, "c2VhbA==")),
        frame(ToolUseStarted(index=0, id="toolu_1", name="ls")),
        frame(ToolInputAdded(0, '{"')),
        frame(BlockEnded(0)),
        frame(ENDED),
        PING,
        STOP,
        error_frame(EngineFailed("It broke."), "req_1"),
    ],
)
def test_the_events_name_is_the_type_in_its_data(data: bytes) -> None:
    for name, body in read(data):
        assert body["type"] == name


@given(st.text(), st.integers(min_value=0, max_value=1000))
def test_any_text_comes_back_as_it_was(text: str, index: int) -> None:
    for event, delta in [
        (TextAdded(index, text), {"type": "text_delta", "text": text}),
        (ThinkingAdded(index, text), {"type": "thinking_delta", "thinking": text}),
        (ThinkingSigned(index, text), {"type": "signature_delta", "signature": text}),
        (ToolInputAdded(index, text), {"type": "input_json_delta", "partial_json": text}),
    ]:
        ((name, body),) = read(frame(event))
        assert name == "content_block_delta"
        assert body == {"type": "content_block_delta", "index": index, "delta": delta}


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "\n\n", 'say "x" \\ ', "\0\x1b\x7f", "\u2028\u2029\x85"]
)
def test_no_line_break_in_a_text_breaks_its_frame(text: str) -> None:
    data = frame(TextAdded(0, text))
    assert data.count(b"\n") == 3
    assert b"\r" not in data
    assert read(data)[0][1]["delta"]["text"] == text


def test_characters_beyond_ascii_are_sent_as_themselves() -> None:
    assert "川柳🌸".encode() in frame(TextAdded(0, "川柳🌸"))


def test_an_answer_opens_with_its_empty_message() -> None:
    assert read(frame(STARTED)) == [
        ("message_start", {"type": "message_start", "message": started_body("msg_1", "m", USAGE)})
    ]


def test_diagnostics_stand_on_the_opening_when_they_were_asked_for() -> None:
    assert "diagnostics" not in read(frame(STARTED))[0][1]["message"]
    why = {"cache_miss_reason": {"type": "previous_message_not_found"}}
    (_, body) = read(frame(STARTED, Extras(asked_why=True, diagnosis=why)))[0]
    assert body["message"]["diagnostics"] == why


def test_a_block_opens_empty_and_closes_by_its_index() -> None:
    assert read(frame(TextStarted(2)) + frame(BlockEnded(2))) == [
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 2,
                "content_block": {"type": "text", "text": "", "citations": None},
            },
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 2}),
    ]


@pytest.mark.parametrize(
    ("event", "block"),
    [
        (ThinkingStarted(1), {"type": "thinking", "thinking": "", "signature": ""}),
        (
            ToolUseStarted(index=1, id="toolu_1", name="ls"),
            {
                "type": "tool_use",
                "id": "toolu_1",
                "name": "ls",
                "input": {},
                "caller": {"type": "direct"},
            },
        ),
    ],
)
def test_a_thought_and_a_call_open_empty(event: BlockEvent, block: dict[str, Any]) -> None:
    ((name, body),) = read(frame(event))
    assert name == "content_block_start"
    assert body == {"type": "content_block_start", "index": 1, "content_block": block}


def test_an_answer_ends_with_its_reason_its_usage_and_the_stop() -> None:
    assert read(frame(ENDED)) == [
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {
                    "stop_reason": "stop_sequence",
                    "stop_sequence": "\n\n",
                    "stop_details": None,
                    "container": None,
                },
                "usage": usage_body(ENDED.usage),
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    ]


def test_applied_edits_stand_at_the_end_when_edits_were_sent() -> None:
    edit = {"type": "clear_tool_uses_20250919", "cleared_tool_uses": 2, "cleared_input_tokens": 9}
    extras = Extras(context_management=[edit])
    assert frame(STARTED, extras) == frame(STARTED)
    body = read(frame(ENDED, extras))[0][1]
    assert list(body) == ["type", "delta", "usage", "context_management"]
    assert body["context_management"] == {"applied_edits": [edit]}


def test_an_error_event_carries_the_body_of_the_error() -> None:
    assert read(error_frame(EngineFailed("It broke."), "req_1")) == [
        (
            "error",
            {
                "type": "error",
                "error": {"type": "api_error", "message": "It broke."},
                "request_id": "req_1",
            },
        )
    ]
