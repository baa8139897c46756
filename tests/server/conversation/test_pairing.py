"""Calls and results come in pairs: what the history of a tool loop may look like (contract 6.3)."""

from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Message,
    TextBlock,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)

USER = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "and?"}


def call(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "ls", "input": {"path": "/"}} | more


def result(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": "x"} | more


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def unanswered(index: int, *names: str) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(names)}. Each `tool_use` block must have a corresponding `tool_result` "
        "block in the next message."
    )


def unexpected(index: int, place: int, name: str) -> str:
    return (
        f"messages.{index}.content.{place}: unexpected `tool_use_id` found in `tool_result` "
        f"blocks: {name}. Each `tool_result` block must have a corresponding `tool_use` block in "
        "the previous message."
    )


def test_a_call_and_its_result_are_read_without_any_tools(read: Any) -> None:
    """Row 36: the history may have been made with tools that are gone."""
    asked = read(messages=[USER, assistant(TEXT, call()), user(result(), TEXT)])
    assert asked.conversation.messages[1:] == (
        Message(
            role="assistant",
            content=(
                TextBlock(text="and?"),
                ToolUseBlock(id="a", name="ls", input={"path": "/"}),
            ),
        ),
        Message(
            role="user",
            content=(
                ToolResultBlock(tool_use_id="a", content=(TextBlock(text="x"),)),
                TextBlock(text="and?"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ({"content": "done"}, ["done"]),
        ({"content": [TEXT, TEXT]}, ["and?", "and?"]),
        ({"content": "\n"}, ["\n"]),
        ({"content": []}, []),
        ({"content": ""}, []),
        ({"content": None}, []),
    ],
)
def test_a_result_is_a_string_or_blocks_or_nothing(
    read: Any, content: dict[str, Any], texts: list[str]
) -> None:
    for is_error in (True, False, None):
        shown = result(is_error=is_error) | content
        asked = read(messages=[USER, assistant(call()), user(shown)])
        assert asked.conversation.messages[-1].content == (
            ToolResultBlock(
                tool_use_id="a",
                content=tuple(TextBlock(text=each) for each in texts),
                is_error=bool(is_error),
            ),
        )


def test_a_result_holds_no_empty_text_block(read: Any) -> None:
    empty = result(content=[{"type": "text", "text": ""}])
    words = "messages: text content blocks must be non-empty"
    assert read.refusal(messages=[USER, assistant(call()), user(empty)]) == words


def test_results_may_come_in_several_messages(read: Any) -> None:
    calls = assistant(call("a"), call("b"))
    asked = read(messages=[USER, calls, user(result("b")), user(result("a"), TEXT), USER])
    assert len(asked.conversation.messages) == 3


def test_calls_of_several_entries_are_those_of_one_turn(read: Any) -> None:
    assert read(
        messages=[USER, assistant(call("a")), assistant(call("b")), user(result("a"), result("b"))]
    )


def test_ids_of_other_vendors_are_as_good(read: Any) -> None:
    name = "call_-9"
    assert read(messages=[USER, assistant(call(name)), user(result(name))])


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([assistant(call())], unanswered(1, "a")),
        ([assistant(call()), USER], unanswered(1, "a")),
        ([assistant(call()), user(TEXT, result())], unanswered(1, "a")),
        ([assistant(call("a"), call("b")), user(result("a"))], unanswered(1, "b")),
        ([assistant(call("a"), call("b"))], unanswered(1, "a", "b")),
        (
            [assistant(call("a"), call("b")), user(result("a"), TEXT, result("b"))],
            unanswered(1, "b"),
        ),
        ([assistant(call("a")), user(result("a")), assistant(call("b"))], unanswered(3, "b")),
        ([user(result())], unexpected(1, 0, "a")),
        ([assistant(TEXT), user(TEXT, result())], unexpected(2, 1, "a")),
        ([assistant(call("a")), user(result("a"), result("c"))], unexpected(2, 1, "c")),
        (
            [assistant(call("a")), user(result("a")), assistant(TEXT), user(result("a"))],
            unexpected(4, 0, "a"),
        ),
        ([assistant(call("a"), call("a"))], "messages: `tool_use` ids must be unique"),
        (
            [assistant(call("a")), user(result("a")), assistant(call("a")), user(result("a"))],
            "messages: `tool_use` ids must be unique",
        ),
        (
            [assistant(call("a")), user(result("a"), result("a"))],
            "messages.2.content.1: each tool_use must have a single result. Found multiple "
            "`tool_result` blocks with id: a",
        ),
    ],
)
def test_what_does_not_pair_is_named(read: Any, messages: list[Any], words: str) -> None:
    assert read.refusal(messages=[USER, *messages]) == words


def test_the_operator_does_not_speak_between_a_call_and_its_result(read: Any) -> None:
    note = {"role": "system", "content": "be brief"}
    words = read.refusal(messages=[USER, assistant(call()), note, user(result())])
    assert words == "messages.2: role 'system' must follow a user message"
    assert read(messages=[USER, assistant(call()), user(result()), note])


def test_a_result_is_the_users_and_a_call_the_models(read: Any) -> None:
    assert read.refusal(messages=[user(TEXT, call())]) == (
        "messages.0.content.1: `tool_use` blocks can only be in `assistant` messages"
    )
    assert read.refusal(messages=[USER, assistant(result()), USER]) == (
        "messages.1.content.0: `tool_result` blocks can only be in `user` messages"
    )


TOOLS = [
    {"name": "find", "input_schema": {"type": "object"}},
    {"name": "ls", "input_schema": {"type": "object"}, "defer_loading": True},
]


def test_a_result_may_bring_a_tool_along(read: Any) -> None:
    found = result(content=[{"type": "tool_reference", "tool_name": "ls"}])
    asked = read(tools=TOOLS, messages=[USER, assistant(call()), user(found)])
    find, ls = asked.demands.callable_tools
    assert asked.conversation.tools == (find,)
    (block,) = asked.conversation.messages[-1].content
    assert block == ToolResultBlock(tool_use_id="a", content=(ToolDefinitionBlock(tool=ls),))


def test_a_result_can_only_bring_a_tool_that_was_declared(read: Any) -> None:
    found = result(content=[TEXT, {"type": "tool_reference", "tool_name": "rm"}])
    error = read.error(tools=TOOLS, messages=[USER, assistant(call()), user(found)])
    assert error.message == "Tool reference 'rm' not found in available tools"
    assert error.details == {"error_code": "tool_reference_unresolved"}
