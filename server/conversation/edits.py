"""From `context_management` to the edits of a conversation (contract 1.9)."""

from senryu.server.wire import requests as wire
from senryu.server.wire.errors import InvalidRequest

from .editing import ClearThinking, ClearToolUses, Edit
from .terms import Terms

_BETA = "context-management-2025-06-27"


def read_edits(asked: wire.ContextManagement | None, terms: Terms) -> tuple[Edit, ...] | None:
    """None when the request asks for no editing at all. Raises InvalidRequest."""
    if asked is None:
        return None
    if terms.strict and _BETA not in terms.betas:
        raise InvalidRequest("context_management: Extra inputs are not permitted")
    edits = asked.edits or []
    for index, edit in enumerate(edits):
        if edit.type in (earlier.type for earlier in edits[:index]):
            raise InvalidRequest(
                f"context_management.edits.{index}: {edit.type} may be given only once"
            )
    return tuple(_edit(edit, index) for index, edit in enumerate(edits))


def _edit(edit: wire.Edit, index: int) -> Edit:
    here = f"context_management.edits.{index}"
    match edit:
        case wire.ClearThinking():
            if index > 0:
                raise InvalidRequest(f"{here}: {edit.type} must be the first edit")
            return ClearThinking(
                keep=edit.keep.value if isinstance(edit.keep, wire.Turns) else None
            )
        case wire.ClearToolUses():
            return _clear_tool_uses(edit)
        case wire.Compact():
            raise InvalidRequest(f"{here}: {edit.type} is not supported by this server; remove it")


def _clear_tool_uses(edit: wire.ClearToolUses) -> ClearToolUses:
    unless = ClearToolUses()
    inputs = edit.clear_tool_inputs
    return ClearToolUses(
        trigger=unless.trigger if edit.trigger is None else edit.trigger.type,
        trigger_value=unless.trigger_value if edit.trigger is None else edit.trigger.value,
        keep=unless.keep if edit.keep is None else edit.keep.value,
        at_least=unless.at_least if edit.clear_at_least is None else edit.clear_at_least.value,
        exclude_tools=frozenset(edit.exclude_tools or ()),
        clear_inputs=frozenset(inputs) if isinstance(inputs, list) else bool(inputs),
    )
