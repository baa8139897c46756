"""What a client asks to have left out of a long conversation is read with its defaults (1.9)."""

from typing import Any

import pytest

from senryu.server.conversation.editing import ClearThinking, ClearToolUses

BETA = {"strict": True, "betas": frozenset({"context-management-2025-06-27"})}
KEEP_ALL = {"type": "clear_thinking_20251015", "keep": "all"}
CLEAR = {"type": "clear_tool_uses_20250919"}


def edits(*each: Any) -> dict[str, Any]:
    return {"context_management": {"edits": list(each)}}


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (KEEP_ALL, ClearThinking(keep=None)),
        (KEEP_ALL | {"keep": {"type": "all"}}, ClearThinking(keep=None)),
        ({"type": "clear_thinking_20251015"}, ClearThinking(keep=None)),
        (KEEP_ALL | {"keep": {"type": "thinking_turns", "value": 2}}, ClearThinking(keep=2)),
        (CLEAR, ClearToolUses(trigger="input_tokens", trigger_value=100_000, keep=3)),
        (
            CLEAR
            | {
                "trigger": {"type": "tool_uses", "value": 5},
                "keep": {"type": "tool_uses", "value": 0},
                "clear_at_least": {"type": "input_tokens", "value": 1000},
                "exclude_tools": ["a", "b"],
                "clear_tool_inputs": True,
            },
            ClearToolUses(
                trigger="tool_uses",
                trigger_value=5,
                keep=0,
                at_least=1000,
                exclude_tools=frozenset({"a", "b"}),
                clear_inputs=True,
            ),
        ),
        (CLEAR | {"clear_tool_inputs": ["a"]}, ClearToolUses(clear_inputs=frozenset({"a"}))),
    ],
)
def test_each_edit_is_read_with_the_defaults_of_the_contract(
    read: Any, sent: Any, meant: Any
) -> None:
    assert read(**edits(sent)).edits == (meant,)
    assert read(on=BETA, count=True, **edits(sent)).edits == (meant,)


def test_no_edits_are_not_the_same_as_no_word_of_them(read: Any) -> None:
    assert read().edits is None
    assert read(**edits()).edits == ()
    assert read(context_management={}).edits == ()


def test_thinking_is_cleared_first(read: Any) -> None:
    assert len(read(**edits(KEEP_ALL, CLEAR)).edits) == 2
    assert read.refusal(**edits(CLEAR, KEEP_ALL)) == (
        "context_management.edits.1: clear_thinking_20251015 must be the first edit"
    )


@pytest.mark.parametrize("edit", [KEEP_ALL, CLEAR])
def test_each_edit_is_made_once(read: Any, edit: dict[str, Any]) -> None:
    assert read.refusal(**edits(edit, *[edit] * 100)) == (
        f"context_management.edits.1: {edit['type']} may be given only once"
    )


def test_summaries_are_refused_by_name(read: Any) -> None:
    assert read.refusal(**edits(CLEAR, {"type": "compact_20260112", "trigger": None})).startswith(
        "context_management.edits.1: compact_20260112 is not supported"
    )


def test_strict_reading_wants_the_beta(read: Any) -> None:
    assert read.refusal(on={"strict": True}, **edits()) == (
        "context_management: Extra inputs are not permitted"
    )
