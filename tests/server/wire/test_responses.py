"""Response bodies carry every key of the contract, in the hosted order."""

from senryu.server.conversation.messages import StopReason, TextBlock, Usage
from senryu.server.turn.blocks import Answer
from senryu.server.wire.responses import (
    Extras,
    count_body,
    message_body,
    model_body,
    started_body,
    usage_body,
)

ANSWER = Answer(
    message_id="msg_1",
    model="m",
    blocks=(TextBlock(text="hi"),),
    stop_reason=StopReason.END_TURN,
    stop_sequence=None,
    usage=Usage(input_tokens=3, output_tokens=5, cache_read_tokens=16, cache_creation_tokens=32),
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
    asked = message_body(ANSWER, Extras(diagnostics=True))
    assert asked["diagnostics"] == {"cache_miss_reason": {"type": "unavailable"}}


def test_applied_edits_are_told_only_to_those_who_sent_edits() -> None:
    assert "context_management" not in message_body(ANSWER)
    asked = message_body(ANSWER, Extras(context_management=True))
    assert list(asked) == [*KEYS, "context_management"]
    assert asked["context_management"] == {"applied_edits": []}
    assert count_body(7) == {"input_tokens": 7}
    assert count_body(7, Extras(context_management=True)) == {
        "input_tokens": 7,
        "context_management": {"original_input_tokens": 7},
    }


def test_a_model_has_every_key_and_claims_nothing_it_cannot_do() -> None:
    body = model_body("org/model", window=4096, created_at="2026-01-01T00:00:00Z")
    assert list(body) == [
        "type",
        "id",
        "display_name",
        "created_at",
        "max_input_tokens",
        "max_tokens",
        "lifecycle",
        "deprecated_at",
        "retires_at",
        "line",
        "capabilities",
    ]
    assert (body["id"], body["display_name"]) == ("org/model", "model")
    assert body["max_input_tokens"] == body["max_tokens"] == 4096
    capabilities = body["capabilities"]
    assert capabilities.keys() == {
        "batch",
        "citations",
        "code_execution",
        "image_input",
        "pdf_input",
        "structured_outputs",
        "context_management",
        "effort",
        "server_tools",
        "thinking",
    }
    assert not any(capability["supported"] for capability in capabilities.values())
    assert capabilities["thinking"]["types"].keys() == {
        "adaptive",
        "between_tools",
        "disabled",
        "enabled",
    }
