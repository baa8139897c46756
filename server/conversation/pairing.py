"""Each call of a tool has its result right behind it, and each result its call (contract 6.3)."""

from collections.abc import Sequence
from itertools import groupby

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessageParam


def check_pairs(params: Sequence[MessageParam]) -> None:
    """Consecutive entries of a role are one turn here too. Raises InvalidRequest."""
    spoken = [(index, param) for index, param in enumerate(params) if param.role != "system"]
    known: set[str] = set()
    calls: dict[str, int] = {}  # of the turn before this one, and where they stand
    for role, entries in groupby(spoken, key=lambda entry: entry[1].role):
        if role == "assistant":
            calls = _calls(list(entries), known)
        else:
            _check_results(list(entries), calls)
            calls = {}
    _refuse_unanswered(calls)


def _calls(entries: list[tuple[int, MessageParam]], known: set[str]) -> dict[str, int]:
    calls = {}
    for index, param in entries:
        for block in param.content:
            if not isinstance(block, wire.ToolUse):
                continue
            if block.id in known:
                raise InvalidRequest("messages: `tool_use` ids must be unique")
            known.add(block.id)
            calls[block.id] = index
    return calls


def _check_results(entries: list[tuple[int, MessageParam]], calls: dict[str, int]) -> None:
    """Results stand at the head of the turn: one behind anything else answers nothing."""
    answered: set[str] = set()
    at_head = True
    for index, param in entries:
        for place, block in enumerate(param.content):
            if not isinstance(block, wire.ToolResult):
                at_head = False
                continue
            here, name = f"messages.{index}.content.{place}", block.tool_use_id
            if name in answered:
                raise InvalidRequest(
                    f"{here}: each tool_use must have a single result. Found multiple "
                    f"`tool_result` blocks with id: {name}"
                )
            if name not in calls:
                raise InvalidRequest(
                    f"{here}: unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the "
                    "previous message."
                )
            if at_head:
                answered.add(name)
    _refuse_unanswered({name: index for name, index in calls.items() if name not in answered})


def _refuse_unanswered(calls: dict[str, int]) -> None:
    if calls:
        raise InvalidRequest(
            f"messages.{min(calls.values())}: `tool_use` ids were found without `tool_result` "
            f"blocks immediately after: {', '.join(calls)}. Each `tool_use` block must have a "
            "corresponding `tool_result` block in the next message."
        )
