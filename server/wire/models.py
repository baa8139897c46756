"""One entry of the Models API (contract 1.13): plain dictionaries, keys in the hosted order.

In: the facts of a model. Out: what the JSON encoder takes, claiming no more than is done here.
"""

from typing import Any


def model_body(
    model: str, *, window: int, created_at: str, thinks: bool, sees: bool, batches: bool
) -> dict[str, Any]:
    """`thinks`: whether it can be asked to think first; `sees`: whether it takes images; `batches`:
    whether this server keeps any."""
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
            "batch": _is(batches),
            "citations": _is(False),
            "code_execution": _is(False),
            "image_input": _is(sees),
            "pdf_input": _is(True),  # every model reads the text layer
            "structured_outputs": _is(True),
            "context_management": _is(True)
            | {
                "clear_thinking_20251015": _is(True),
                "clear_tool_uses_20250919": _is(True),
                "compact_20260112": _is(False),
            },
            # Effort is how long to think; where there is no thinking it is taken and does nothing.
            "effort": _is(thinks)
            | {level: _is(thinks) for level in ("low", "medium", "high", "max", "xhigh")},
            "server_tools": _is(False) | {"web_search": _is(False), "code_execution": _is(False)},
            "thinking": _is(thinks)
            | {
                "types": {
                    "adaptive": _is(thinks),
                    "between_tools": _is(False),
                    "disabled": _is(True),
                    "enabled": _is(thinks),
                },
            },
        },
    }


def _is(supported: bool) -> dict[str, Any]:
    return {"supported": supported}
