"""Old results and thoughts give way as the client asked, and nothing else changes (1.9)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.editing import (
    CLEARED,
    ClearThinking,
    ClearToolUses,
    Edit,
    apply_edits,
)
from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.engine.scripted import ByteTokenizer
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.prompt import build_prompt

LONG = "what the tool found, at some length. " * 3


def count(conversation: Conversation) -> int:
    return len(build_prompt(conversation, ByteTokenizer(), HermesDialect(thought=THOUGHT)))


def refuse_to_count(conversation: Conversation) -> int:
    raise AssertionError("nothing had to be counted")


def use(number: int, name: str = "ls") -> ToolUseBlock:
    return ToolUseBlock(id=f"t{number}", name=name, input={"path": f"/{number}"})


def result(number: int, text: str = LONG) -> ToolResultBlock:
    return ToolResultBlock(tool_use_id=f"t{number}", content=(TextBlock(text=text),))


def loop(*names: str, text: str = LONG) -> Conversation:
    """One call of each of these tools, with a thought before it; the last result is the newest."""
    messages = [Message(role="user", content=(TextBlock(text="go"),))]
    for number, name in enumerate(names):
        thought = ThinkingBlock(thinking=f"I try number {number}.")
        messages += [
            Message(role="assistant", content=(thought, use(number, name))),
            Message(role="user", content=(result(number, text),)),
        ]
    return Conversation(messages=tuple(messages))


def blocks(conversation: Conversation) -> Iterator[Block]:
    for turn in conversation.messages:
        yield from turn.content


def results(conversation: Conversation) -> list[str]:
    """Which results are whole, and which were cleared."""
    return [
        "cleared" if CLEARED in block.content else "whole"
        for block in blocks(conversation)
        if isinstance(block, ToolResultBlock)
    ]


NOW = ClearToolUses(trigger_value=0)


# --- tool results ------------------------------------------------------------------------------


def test_the_oldest_results_give_way_to_a_short_note() -> None:
    before = loop("ls", "ls", "ls", "ls", "ls")
    after, applied = apply_edits(before, [NOW], count)
    assert results(after) == ["cleared", "cleared", "whole", "whole", "whole"]
    assert applied == [
        {
            "type": "clear_tool_uses_20250919",
            "cleared_tool_uses": 2,
            "cleared_input_tokens": count(before) - count(after),
        }
    ]
    inputs = [block.input for block in blocks(after) if isinstance(block, ToolUseBlock)]
    assert inputs == [{"path": f"/{number}"} for number in range(5)]


@pytest.mark.parametrize(("keep", "whole"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_as_many_of_the_newest_stay_as_are_to_be_kept(keep: int, whole: int) -> None:
    after, _ = apply_edits(loop("a", "b", "c", "d"), [replace(NOW, keep=keep)], count)
    assert results(after) == ["cleared"] * (4 - whole) + ["whole"] * whole


def test_nothing_is_cleared_before_its_time() -> None:
    conversation = loop("a", "b", "c", "d")
    size = count(conversation)
    for trigger, value, cleared in (
        ("input_tokens", size, 0),
        ("input_tokens", size - 1, 1),
        ("tool_uses", 4, 0),
        ("tool_uses", 3, 1),
    ):
        edit = ClearToolUses(trigger=trigger, trigger_value=value)  # type: ignore[arg-type]
        after, applied = apply_edits(conversation, [edit], count)
        assert (results(after).count("cleared"), len(applied)) == (cleared, cleared), trigger


def test_less_than_what_has_to_be_won_is_not_worth_it() -> None:
    conversation = loop("a", "b", "c", "d")
    (entry,) = apply_edits(conversation, [NOW], count)[1]
    won = entry["cleared_input_tokens"]
    enough = apply_edits(conversation, [replace(NOW, at_least=won)], count)
    assert enough[1] == [entry]
    too_little = apply_edits(conversation, [replace(NOW, at_least=won + 1)], count)
    assert too_little == (conversation, [])


def test_results_of_excluded_tools_stay() -> None:
    edit = replace(NOW, keep=1, exclude_tools=frozenset({"search"}))
    after, (entry,) = apply_edits(loop("search", "ls", "search", "ls"), [edit], count)
    assert results(after) == ["whole", "cleared", "whole", "whole"]
    assert entry["cleared_tool_uses"] == 1


@pytest.mark.parametrize(
    ("clear_inputs", "emptied"),
    [(False, []), (True, ["t0", "t1"]), (frozenset({"ls"}), ["t0"]), (frozenset({"x"}), [])],
)
def test_inputs_go_too_where_the_client_wants_it(clear_inputs: Any, emptied: list[str]) -> None:
    edit = replace(NOW, keep=1, clear_inputs=clear_inputs)
    after, (entry,) = apply_edits(loop("ls", "cat", "ls"), [edit], count)
    uses = [block for block in blocks(after) if isinstance(block, ToolUseBlock)]
    assert [each.id for each in uses if not each.input] == emptied
    assert entry["cleared_tool_uses"] == 2


def test_a_short_result_is_not_made_longer() -> None:
    conversation = loop("a", "b", text="ok")
    assert apply_edits(conversation, [replace(NOW, keep=0)], refuse_to_count) == (conversation, [])


def test_what_a_result_taught_of_tools_stays_and_its_pictures_go() -> None:
    taught = ToolDefinitionBlock(tool=Tool(name="late", input_schema={"type": "object"}))
    picture = ImageBlock(media_type="image/png", data=b"")
    held = replace(result(0), content=(picture, taught), is_error=True)
    conversation = loop("find")
    last = replace(conversation.messages[-1], content=(held,))
    conversation = replace(conversation, messages=(*conversation.messages[:-1], last))
    sizes = iter([100, 50])
    after, _ = apply_edits(conversation, [replace(NOW, keep=0)], lambda _: next(sizes))
    assert after.messages[-1].content == (replace(held, content=(CLEARED, taught)),)


# --- thoughts ----------------------------------------------------------------------------------


def thoughts(conversation: Conversation) -> list[str]:
    return [each.thinking for each in blocks(conversation) if isinstance(each, ThinkingBlock)]


@pytest.mark.parametrize("keep", [1, 2])
def test_thoughts_stay_in_the_newest_turns_that_hold_some(keep: int) -> None:
    before = loop("a", "b", "c")
    after, applied = apply_edits(before, [ClearThinking(keep=keep)], count)
    assert thoughts(after) == thoughts(before)[-keep:]
    assert applied == [
        {
            "type": "clear_thinking_20251015",
            "cleared_thinking_turns": 3 - keep,
            "cleared_input_tokens": count(before) - count(after),
        }
    ]


@pytest.mark.parametrize("keep", [None, 3, 4])
def test_to_keep_all_thoughts_costs_nothing(keep: int | None) -> None:
    conversation = loop("a", "b", "c")
    edited = apply_edits(conversation, [ClearThinking(keep=keep)], refuse_to_count)
    assert edited == (conversation, [])


def test_a_turn_that_was_only_a_thought_stays_as_an_empty_one() -> None:
    conversation = loop("a")
    cut_off = Message(role="assistant", content=(ThinkingBlock(thinking="Hm, what if"),))
    go_on = Message(role="user", content=(TextBlock(text="go on"),))
    conversation = replace(
        conversation,
        messages=(conversation.messages[0], cut_off, go_on, *conversation.messages[1:]),
    )
    after, _ = apply_edits(conversation, [ClearThinking(keep=1)], count)
    assert after.messages[1] == Message(role="assistant", content=())


def test_edits_follow_one_another_and_only_those_that_did_something_are_told() -> None:
    conversation = loop("a", "b", "c", "d")
    after, applied = apply_edits(conversation, [ClearThinking(keep=1), NOW, NOW], count)
    assert [entry["type"] for entry in applied] == [
        "clear_thinking_20251015",
        "clear_tool_uses_20250919",
    ]
    won = sum(entry["cleared_input_tokens"] for entry in applied)
    assert won == count(conversation) - count(after)


# --- whatever the conversation and the edits ---------------------------------------------------

NAMES = st.sampled_from(["ls", "cat", "search"])
TEXTS = st.sampled_from(["", "ok", LONG, " " * 40, "é" * 30])


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns with thoughts, texts and several calls at once, each answered in the next."""
    messages = [Message(role="user", content=(TextBlock(text="go"),))]
    number = 0
    for _ in range(draw(st.integers(0, 5))):
        content: list[Block] = [
            ThinkingBlock(thinking=text) for text in draw(st.lists(TEXTS, max_size=2))
        ]
        content += [TextBlock(text=text) for text in draw(st.lists(TEXTS, max_size=1))]
        names = draw(st.lists(NAMES, max_size=3))
        calls = [use(number + place, name) for place, name in enumerate(names)]
        number += len(calls)
        answers: list[Block] = [
            ToolResultBlock(
                tool_use_id=call.id,
                content=tuple(TextBlock(text=text) for text in draw(st.lists(TEXTS, max_size=2))),
                is_error=draw(st.booleans()),
            )
            for call in calls
        ]
        messages += [
            Message(role="assistant", content=(*content, *calls)),
            Message(role="user", content=(*answers, TextBlock(text="and now?"))),
        ]
    return Conversation(messages=tuple(messages))


TOOL_EDITS = st.builds(
    ClearToolUses,
    trigger=st.sampled_from(["input_tokens", "tool_uses"]),
    trigger_value=st.integers(0, 5) | st.integers(0, 1000),
    keep=st.integers(0, 4),
    at_least=st.just(0) | st.integers(0, 300),
    exclude_tools=st.frozensets(NAMES),
    clear_inputs=st.booleans() | st.frozensets(NAMES),
)
THINKING_EDITS = st.builds(ClearThinking, keep=st.none() | st.integers(1, 3))
EDITS: st.SearchStrategy[list[Edit]] = st.lists(TOOL_EDITS | THINKING_EDITS, max_size=3)


@given(conversation=conversations(), edits=EDITS)
def test_pairs_stay_pairs_and_nothing_grows(conversation: Conversation, edits: list[Edit]) -> None:
    after, applied = apply_edits(conversation, edits, count)

    def skeleton(whole: Conversation) -> list[list[tuple[Any, ...]]]:
        return [
            [
                (each.id, each.name)
                if isinstance(each, ToolUseBlock)
                else (each.tool_use_id, each.is_error)
                if isinstance(each, ToolResultBlock)
                else (each,)
                for each in turn.content
                if not isinstance(each, ThinkingBlock)
            ]
            for turn in whole.messages
        ]

    assert skeleton(after) == skeleton(conversation)
    assert [turn.role for turn in after.messages] == [turn.role for turn in conversation.messages]
    won = sum(entry["cleared_input_tokens"] for entry in applied)
    assert count(conversation) - count(after) == won >= 0
    assert all(entry["cleared_input_tokens"] > 0 for entry in applied)
    if not applied:
        assert after == conversation


@given(conversation=conversations(), edit=TOOL_EDITS | THINKING_EDITS)
def test_a_second_time_there_is_nothing_left_to_do(conversation: Conversation, edit: Edit) -> None:
    after, _ = apply_edits(conversation, [edit], count)
    assert apply_edits(after, [edit], count) == (after, [])


@given(conversation=conversations(), edit=TOOL_EDITS)
def test_the_pairs_that_are_kept_are_untouched(
    conversation: Conversation, edit: ClearToolUses
) -> None:
    after, _ = apply_edits(conversation, [edit], count)
    uses = [each for each in blocks(conversation) if isinstance(each, ToolUseBlock)]
    newest = uses[-edit.keep :] if edit.keep else []
    kept = {each.id for each in uses if each in newest or each.name in edit.exclude_tools}
    pairs = zip(blocks(conversation), blocks(after), strict=True)
    for before, left in pairs:
        if isinstance(before, ToolUseBlock) and before.id in kept:
            assert left == before
        if isinstance(before, ToolResultBlock) and before.tool_use_id in kept:
            assert left == before
