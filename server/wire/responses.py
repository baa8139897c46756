"""Response bodies of the Messages API: plain dictionaries, keys in the hosted order (1.10).

In: an `Answer`, or the facts of a model. Out: what the JSON encoder takes. No HTTP here.
"""

from dataclasses import dataclass
from typing import Any

from senryu.server.conversation.messages import TextBlock, Usage
from senryu.server.turn.blocks import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """The keys that only a request which asked for them finds in its answer."""

    diagnostics: bool = False
    context_management: bool = False


NO_EXTRAS = Extras()


def message_body(answer: Answer, extras: Extras = NO_EXTRAS) -> dict[str, Any]:
    """A whole message."""
    return {
        **_opening(answer.message_id, answer.model, extras),
        "content": [block_body(block) for block in answer.blocks],
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": None,
        "container": None,
        "usage": usage_body(answer.usage),
        **closing_extras(extras),
    }


def started_body(
    message_id: str, model: str, usage: Usage, extras: Extras = NO_EXTRAS
) -> dict[str, Any]:
    """The message as it stands in `message_start`: no content, no stop reason yet."""
    return {
        **_opening(message_id, model, extras),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        # The contract wants at least 1 here; `message_delta` brings the true count.
        "usage": usage_body(usage) | {"output_tokens": 1},
    }


def _opening(message_id: str, model: str, extras: Extras) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "id": message_id,
        "type": "message",
        "role": "assistant",
    }
    if extras.diagnostics:
        body["diagnostics"] = {"cache_miss_reason": {"type": "unavailable"}}
    return body


def closing_extras(extras: Extras) -> dict[str, Any]:
    """What is told at the end: the edits that are taken are those without effect."""
    return {"context_management": {"applied_edits": []}} if extras.context_management else {}


def count_body(tokens: int, extras: Extras = NO_EXTRAS) -> dict[str, Any]:
    """The answer of count_tokens (contract 1.11)."""
    body: dict[str, Any] = {"input_tokens": tokens}
    if extras.context_management:
        body["context_management"] = {"original_input_tokens": tokens}
    return body


def block_body(block: TextBlock) -> dict[str, Any]:
    """A content block as it stands in a message."""
    return {"type": "text", "text": block.text, "citations": None}


def usage_body(usage: Usage) -> dict[str, Any]:
    """Token counts (contract 1.10.3)."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_creation_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "not_available",
        "speed": "standard",
    }


def model_body(model: str, *, window: int, created_at: str) -> dict[str, Any]:
    """One entry of the Models API, its capabilities as they are today (contract 1.13)."""

    def no(*names: str) -> dict[str, Any]:
        return {"supported": False} | {name: {"supported": False} for name in names}

    return {
        "type": "model",
        "id": model,
        "display_name": model.rsplit("/", 1)[-1],
        "created_at": created_at,
        "max_input_tokens": window,
        "max_tokens": window,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": {
            "batch": no(),
            "citations": no(),
            "code_execution": no(),
            "image_input": no(),
            "pdf_input": no(),
            "structured_outputs": no(),
            "context_management": no(
                "clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"
            ),
            "effort": no("low", "medium", "high", "max", "xhigh"),
            "server_tools": no("web_search", "code_execution"),
            "thinking": {
                "supported": False,
                "types": {
                    "adaptive": {"supported": False},
                    "between_tools": {"supported": False},
                    "disabled": {"supported": True},
                    "enabled": {"supported": False},
                },
            },
        },
    }
