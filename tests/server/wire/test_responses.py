"""Response bodies carry every key of the contract, in the hosted order."""

from senryu.server.conversation.messages import (
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)
from senryu.server.turn.blocks import Answer
from senryu.server.wire.responses import (
    Extras,
    block_body,
    count_body,
    message_body,
    started_body,
    usage_body,
)

ANSWER = Answer(
    message_id="msg_1",
    model="m",
    blocks=(TextBlock(text="hi"),),
    stop_reason=StopReason.END_TURN,
    stop_sequence=None,
    usage=Usage(input_tokens=3, output_tokens=5, cache_read_tokens=16, cache_creation_5m_tokens=32),
)
KEYS = [
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
]


def test_a_message_has_every_key_in_the_hosted_order() -> None:
    body = message_body(ANSWER)
    assert list(body) == KEYS
    assert body | {"usage": None} == {
        "model": "m",
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "hi", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": None,
    }


def test_usage_has_every_key_and_its_cache_counts_sum() -> None:
    assert list(usage_body(ANSWER.usage).items()) == [
        ("input_tokens", 3),
        ("cache_creation_input_tokens", 32),
        ("cache_read_input_tokens", 16),
        ("cache_creation", {"ephemeral_5m_input_tokens": 32, "ephemeral_1h_input_tokens": 0}),
        ("output_tokens", 5),
        ("output_tokens_details", {"thinking_tokens": 0}),
        ("server_tool_use", None),
        ("service_tier", "standard"),
        ("inference_geo", "not_available"),
        ("speed", "standard"),
    ]


def test_a_message_that_has_just_started_is_empty_and_counts_one_token() -> None:
    body = started_body("msg_1", "m", Usage(input_tokens=3, output_tokens=0))
    assert list(body) == KEYS
    assert body["content"] == []
    assert body["stop_reason"] is None
    assert body["usage"]["output_tokens"] == 1


def test_diagnostics_are_sent_only_to_those_who_asked() -> None:
    assert "diagnostics" not in message_body(ANSWER)
    assert message_body(ANSWER, Extras(asked_why=True))["diagnostics"] is None
    why = {"cache_miss_reason": {"type": "previous_message_not_found"}}
    assert message_body(ANSWER, Extras(asked_why=True, diagnosis=why))["diagnostics"] == why


def test_a_thought_is_told_with_its_seal() -> None:
    block = ThinkingBlock(thinking="Hm.", signature="c2VhbA==")
    assert list(block_body(block).items()) == [
        ("type", "thinking"),
        ("thinking", "Hm."),
        ("signature", "c2VhbA=="),
    ]


def test_a_call_is_told_with_its_caller() -> None:
    call = ToolUseBlock(id="toolu_1", name="ls", input={"path": "/"})
    assert list(block_body(call).items()) == [
        ("type", "tool_use"),
        ("id", "toolu_1"),
        ("name", "ls"),
        ("input", {"path": "/"}),
        ("caller", {"type": "direct"}),
    ]


def test_thinking_is_counted_within_the_output() -> None:
    usage = Usage(input_tokens=3, output_tokens=5, thinking_tokens=2)
    assert usage_body(usage)["output_tokens_details"] == {"thinking_tokens": 2}


def test_applied_edits_are_told_only_to_those_who_sent_edits() -> None:
    assert "context_management" not in message_body(ANSWER)
    for edits in ([], [{"type": "clear_thinking_20251015", "cleared_thinking_turns": 1}]):
        asked = message_body(ANSWER, Extras(context_management=edits))
        assert list(asked) == [*KEYS, "context_management"]
        assert asked["context_management"] == {"applied_edits": edits}


def test_a_count_after_edits_tells_the_count_before_them() -> None:
    assert count_body(7) == {"input_tokens": 7}
    assert count_body(7, Extras(context_management=[], original_tokens=9)) == {
        "input_tokens": 7,
        "context_management": {"original_input_tokens": 9},
    }
