"""Cache marks stay with their blocks where they may stand, and are refused elsewhere (contract 5.1
to 5.3)."""

from collections.abc import Iterator
from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Conversation,
    NoteBlock,
    TextBlock,
    Tool,
    ToolResultBlock,
)

MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "ls", "input_schema": {"type": "object"}}
ORDER = (
    "cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
    "cache_control block. Note that blocks are processed in the following order: tools, system, "
    "messages."
)
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
CALL = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}


def text(words: str = "hi", mark: Any = None) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": mark}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(**more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "a"} | more


@pytest.mark.parametrize(
    ("changed", "marks"),
    [
        ({"cache_control": MARK}, ["hi 5m"]),
        ({"tools": [TOOL | {"cache_control": HOUR}]}, ["ls 1h"]),
        (
            {"tools": [TOOL, {"type": "bash_20250124", "name": "bash", "cache_control": MARK}]},
            ["bash 5m"],
        ),
        ({"system": [text("a"), text("b", MARK)]}, ["b 5m"]),
        ({"system": [text("a", {"type": "ephemeral", "ttl": "5m", "scope": "global"})]}, ["a 5m"]),
        ({"messages": [user(text("a", MARK), text("b"))]}, ["a 5m"]),
        (
            {"messages": [user(text()), assistant(CALL | {"cache_control": MARK}), user(result())]},
            ["call 5m"],
        ),
        (
            {"messages": [user(text()), assistant(CALL), user(result(cache_control=MARK))]},
            ["result 5m"],
        ),
        (
            {"messages": [user(text()), assistant(CALL), user(result(content=[text("x", MARK)]))]},
            ["x 5m"],
        ),
        (
            {"messages": [user(text()), {"role": "system", "content": [text("a", MARK)]}]},
            ["a 5m"],
        ),
        (
            {
                "system": [text("a", HOUR), text("b", HOUR)],
                "messages": [user(text("c", MARK))],
            },
            ["a 1h", "b 1h", "c 5m"],
        ),
        ({"system": [text("a", MARK)] * 4}, ["a 5m"] * 4),
        ({"system": [text("a", MARK)] * 3, "cache_control": MARK}, ["a 5m"] * 3 + ["hi 5m"]),
        ({"messages": [user(text("a", MARK))], "cache_control": MARK}, ["a 5m"]),
        ({"messages": [user(text("a", HOUR))], "cache_control": HOUR}, ["a 1h"]),
    ],
)
def test_a_mark_stays_with_its_block(read: Any, changed: dict[str, Any], marks: list[str]) -> None:
    for counted in (False, True):
        asked = read(count=counted, **changed)
        assert list(marks_of(asked.conversation)) == marks
        assert asked.ignored == ()


def test_the_mark_of_a_block_that_holds_nothing_here_is_at_what_stands_before_it(read: Any) -> None:
    dropped = FOUND | {"cache_control": MARK}
    for before, left in ((text("b"), "b 5m"), (text("b", HOUR), "b 1h")):
        messages = [user(text("a")), assistant(before, dropped), user(text())]
        assert list(marks_of(read(messages=messages).conversation)) == [left]
    alone = read(messages=[user(text("a")), assistant(dropped), user(text())])
    assert list(marks_of(alone.conversation)) == []
    assert "messages.cache_control" in alone.ignored


def test_the_automatic_mark_passes_over_what_holds_nothing_here(read: Any) -> None:
    asked = read(messages=[user(text("a")), assistant(FOUND)], cache_control=MARK)
    assert list(marks_of(asked.conversation)) == ["a 5m"]


def test_marks_inside_a_document_and_on_a_search_result_stay(read: Any) -> None:
    inner = {"type": "content", "content": [text("x", MARK), text("y")]}
    document = {"type": "document", "source": inner}
    assert list(marks_of(read(messages=[user(document)]).conversation)) == ["x 5m"]
    result = {"type": "search_result", "source": "s", "title": "t", "content": [text("z", HOUR)]}
    (mark,) = marks_of(read(messages=[user(result)]).conversation)
    assert mark.endswith("1h")


def test_of_marks_that_become_one_the_longer_holds(read: Any) -> None:
    notes = {"role": "system", "content": [text("a", HOUR), text("b", MARK)]}
    asked = read(messages=[user(text()), notes])
    assert list(marks_of(asked.conversation)) == ["ab 1h"]


def marks_of(conversation: Conversation) -> Iterator[str]:
    """Each marked block by what it says, and its lifetime."""
    turns = (block for turn in conversation.messages for block in turn.content)
    for each in (*conversation.tools, *conversation.system, *turns):
        match each:
            case Tool(name=said) | TextBlock(text=said) | NoteBlock(text=said):
                pass
            case ToolResultBlock():
                yield from (f"{inner.text} {inner.cache}" for inner in each.content if inner.cache)
                said = "result"
            case _:
                said = "call"
        if each.cache:
            yield f"{said} {each.cache}"


def test_no_mark_is_no_mark(read: Any) -> None:
    assert read(system=[text("a")], cache_control=None).ignored == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"system": [text("a", MARK)] * 5},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            {"system": [text("a", MARK)] * 4, "cache_control": MARK},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            {"messages": [user(*[text("a", MARK)] * 7)]},
            "A maximum of 4 blocks with cache_control may be provided. Found 7.",
        ),
        (
            {"system": [text("a", MARK)], "messages": [user(text("a", HOUR))]},
            f"messages.0.content.0.text.{ORDER}",
        ),
        (
            {"tools": [TOOL | {"cache_control": MARK}], "system": [text("a"), text("b", HOUR)]},
            f"system.1.{ORDER}",
        ),
        ({"system": [text("a", MARK)], "cache_control": HOUR}, ORDER),
        (
            {"messages": [user(text("a", HOUR))], "cache_control": MARK},
            "Top-level cache_control has ttl='5m' but the target block already has cache_control "
            "with ttl='1h'",
        ),
        (
            {"messages": [user(text("a"), text("", MARK))]},
            "messages.0.content.1.text: cache_control cannot be set for empty text blocks",
        ),
        (
            {"messages": [user(text()), assistant(CALL), user(result(content=[text("", MARK)]))]},
            "messages.2.content.0.tool_result.content.0.text: cache_control cannot be set for "
            "empty text blocks",
        ),
    ],
)
def test_a_misplaced_mark_is_named(read: Any, changed: dict[str, Any], words: str) -> None:
    assert read.refusal(**changed) == words
    assert read.refusal(count=True, **changed) == words


def test_the_mark_of_the_request_walks_back_to_a_block_that_can_carry_it(read: Any) -> None:
    """Over thoughts, which cannot."""
    thought = {"type": "thinking", "thinking": "", "signature": ""}
    messages = [user(text("a", HOUR)), assistant(thought)]
    assert read.refusal(messages=messages, cache_control=MARK).startswith("Top-level")
    assert read(messages=messages, cache_control=HOUR)
