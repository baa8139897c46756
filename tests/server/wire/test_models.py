"""The Models API claims what is done here, and no more."""

from typing import Any

import pytest

from senryu.server.wire.models import model_body


def described(*, thinks: bool = False, sees: bool = False, batches: bool = False) -> dict[str, Any]:
    return model_body(
        "org/model",
        window=4096,
        created_at="2026-01-01T00:00:00Z",
        thinks=thinks,
        sees=sees,
        batches=batches,
    )


def supported(capability: dict[str, Any]) -> dict[str, bool]:
    """Each leaf below a capability, by name."""
    return {name: leaf["supported"] for name, leaf in capability.items() if isinstance(leaf, dict)}


def test_a_model_has_every_key_in_the_hosted_order() -> None:
    body = described()
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


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("sees", [False, True])
def test_every_model_claims_what_the_server_does_for_it_and_what_it_was_trained_for(
    thinks: bool, sees: bool
) -> None:
    capabilities = described(thinks=thinks, sees=sees)["capabilities"]
    assert supported(capabilities) == {
        "batch": False,
        "citations": False,
        "code_execution": False,
        "image_input": sees,
        "pdf_input": True,
        "structured_outputs": True,
        "context_management": True,
        "effort": thinks,
        "server_tools": False,
        "thinking": thinks,
    }
    assert supported(capabilities["context_management"]) == {
        "clear_thinking_20251015": True,
        "clear_tool_uses_20250919": True,
        "compact_20260112": False,
    }
    levels = ("low", "medium", "high", "max", "xhigh")
    assert supported(capabilities["effort"]) == dict.fromkeys(levels, thinks)
    assert supported(capabilities["server_tools"]) == {"web_search": False, "code_execution": False}
    assert supported(capabilities["thinking"]["types"]) == {
        "adaptive": thinks,
        "between_tools": False,
        "disabled": True,
        "enabled": thinks,
    }


@pytest.mark.parametrize("batches", [False, True])
def test_batches_are_claimed_where_they_are_kept(batches: bool) -> None:
    assert described(batches=batches)["capabilities"]["batch"] == {"supported": batches}
