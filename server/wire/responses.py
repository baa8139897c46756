"""Response bodies of the Messages API: plain dictionaries, keys in the hosted order (1.10).

In: an `Answer`. Out: what the JSON encoder takes. No HTTP here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from senryu.server.conversation.messages import TextBlock, ThinkingBlock, ToolUseBlock, Usage
from senryu.server.turn.blocks import Answer, AnswerBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """The keys that only a request which asked for them finds in its answer."""

    asked_why: bool = False
    """Whether the client asked why its prompt was not found cached."""
    diagnosis: Mapping[str, Any] | None = None
    context_management: list[dict[str, Any]] | None = None
    """The edits that were applied; empty when none of those asked for had anything to do."""
    original_tokens: int = 0
    """The length of the prompt before them."""


NO_EXTRAS = Extras()


def message_body(
    answer: Answer, extras: Extras = NO_EXTRAS, *, tier: str = "standard"
) -> dict[str, Any]:
    """A whole message. `tier`: `batch` for one of a batch."""
    return {
        **_opening(answer.message_id, answer.model, extras),
        "content": [block_body(block) for block in answer.blocks],
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": None,
        "container": None,
        "usage": usage_body(answer.usage) | {"service_tier": tier},
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
    if extras.asked_why:
        body["diagnostics"] = extras.diagnosis
    return body


def closing_extras(extras: Extras) -> dict[str, Any]:
    """What is told at the end."""
    if extras.context_management is None:
        return {}
    return {"context_management": {"applied_edits": extras.context_management}}


def count_body(tokens: int, extras: Extras = NO_EXTRAS) -> dict[str, Any]:
    """The answer of count_tokens (contract 1.11)."""
    body: dict[str, Any] = {"input_tokens": tokens}
    if extras.context_management is not None:
        body["context_management"] = {"original_input_tokens": extras.original_tokens}
    return body


def block_body(block: AnswerBlock) -> dict[str, Any]:
    """A content block as it stands in a message."""
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text, "citations": None}
        case ThinkingBlock():
            return {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
        case ToolUseBlock():
            return tool_use_body(block.id, block.name, block.input)
        case _:
            assert_never(block)


def tool_use_body(call_id: str, name: str, call_input: Mapping[str, Any]) -> dict[str, Any]:
    """A call, also as it stands empty at the start of its stream."""
    call = {"type": "tool_use", "id": call_id, "name": name, "input": call_input}
    return call | {"caller": {"type": "direct"}}


def usage_body(usage: Usage) -> dict[str, Any]:
    """Token counts (contract 1.10.3)."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_creation_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_creation_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "not_available",
        "speed": "standard",
    }
