"""Entries become turns that alternate: merging, system entries, and what is left out."""

from typing import Any

import pytest

from senryu.server.conversation.messages import Message, NoteBlock, TextBlock, ToolDefinitionBlock
from senryu.server.conversation.turns import _merged

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
CHANGES = {"betas": frozenset({"mid-conversation-tool-changes-2026-07-01"})}
TOOLS = [
    {"name": "ls", "input_schema": {"type": "object"}},
    {"name": "cat", "input_schema": {"type": "object"}, "defer_loading": True},
]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def system(*content: Any) -> dict[str, Any]:
    words = content[0] if isinstance(content[0], str) else list(content)
    return {"role": "system", "content": words}


def change(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "tool": {"type": "tool_reference", "name": name}}


def message(role: Any, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextBlock(text=each) for each in texts))


def noted(text: str, note: str) -> Message:
    """A turn of the user's with the operator's note at its end."""
    return Message(role="user", content=(TextBlock(text=text), NoteBlock(text=note)))


def turns(read: Any, *messages: Any, **changed: Any) -> tuple[Message, ...]:
    read_turns: tuple[Message, ...] = read(messages=list(messages), **changed).conversation.messages
    return read_turns


def test_consecutive_entries_of_a_role_are_one_turn(read: Any) -> None:
    assert turns(read, USER, user(text("there")), ASSISTANT, assistant(text("!")), USER) == (
        message("user", "hi", "there"),
        message("assistant", "hello", "!"),
        message("user", "hi"),
    )


def test_an_empty_final_assistant_entry_means_nothing(read: Any) -> None:
    empty: tuple[Any, ...] = ("", [])
    for content in empty:
        assert turns(read, USER, {"role": "assistant", "content": content}) == turns(read, USER)


def test_as_many_entries_as_may_be_sent_are_one_turn() -> None:
    """In time that grows with their number; squared, this would not end."""
    (merged,) = _merged([message("user", "x")] * 200_000)
    assert len(merged.content) == 200_000


def test_no_messages_are_no_conversation(read: Any) -> None:
    assert read.refusal(messages=[]) == "messages: at least one message is required"


def test_the_first_message_is_the_users(read: Any) -> None:
    words = 'messages: first message must use the "user" role'
    assert read.refusal(messages=[ASSISTANT, USER]) == words


@pytest.mark.parametrize("content", ["", []])
@pytest.mark.parametrize(
    ("before", "role", "after"),
    [
        ([], "user", []),
        ([USER], "assistant", [USER]),
        ([USER, ASSISTANT], "user", []),
        ([USER], "system", []),
    ],
)
def test_a_message_has_content(
    read: Any, content: Any, before: list[Any], role: str, after: list[Any]
) -> None:
    empty = {"role": role, "content": content}
    assert read.refusal(messages=[*before, empty, *after]) == (
        f"messages.{len(before)}: all messages must have non-empty content except for the optional "
        "final assistant message"
    )


# --- system entries ----------------------------------------------------------------------------


def test_a_system_message_is_a_marked_block_at_the_end_of_the_users_turn(read: Any) -> None:
    """Contract 1.3.2."""
    whole = turns(read, USER, system("Be brief."), ASSISTANT, USER)
    assert whole == (
        noted("hi", "Be brief."),
        message("assistant", "hello"),
        message("user", "hi"),
    )
    assert turns(read, USER, system("Be brief.")) == whole[:1]


def test_a_system_message_reads_the_same_as_text_and_as_a_block(read: Any) -> None:
    """Claude Code sends a block while it is the last message, and a string from then on."""
    for following in ([], [ASSISTANT], [ASSISTANT, USER]):
        assert turns(read, USER, system(text("Be brief.")), *following) == (
            turns(read, USER, system("Be brief."), *following)
        )


def test_several_system_messages_in_a_row_are_one_section(read: Any) -> None:
    first, _ = turns(read, USER, system("a"), system("b"), ASSISTANT)
    assert first == noted("hi", "a\nb")


def test_the_operator_may_speak_behind_what_a_hosted_tool_gave_back(read: Any) -> None:
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    read_turns = turns(read, USER, assistant(text("I look."), found), system("Be brief."))
    assert [turn.role for turn in read_turns] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            ["system"],
            "messages.0: role 'system' cannot open a conversation: use the top-level 'sys",
        ),
        (["system", "user"], "messages.0: role 'system' cannot open a conversation: use the top-l"),
        (["user", "assistant", "system"], "messages.2: role 'system' must follow a "),
        (["user", "assistant", "system", "assistant"], "messages.2: role 'system' must follow a "),
        (["user", "system", "user"], "messages.1: role 'system' must precede an "),
        (["user", "system", "system", "user"], "messages.2: role 'system' must precede an "),
    ],
)
def test_system_messages_have_their_place(read: Any, messages: list[str], words: str) -> None:
    asked = [{"role": role, "content": "be brief"} for role in messages]
    assert read.refusal(messages=asked).startswith(words)


def test_the_sentence_on_system_messages_names_the_right_parameter(read: Any) -> None:
    assert read.refusal(messages=[system("a")]).endswith(
        "use the top-level 'system' parameter for the initial system prompt"
    )


@pytest.mark.parametrize(
    "block", [{"type": "server_tool_use"}, {"type": "container_upload", "file_id": "f"}]
)
def test_system_messages_hold_text_only(read: Any, block: dict[str, Any]) -> None:
    assert read.refusal(messages=[USER, system(text("a"), block)]) == (
        "messages.1.content.1: text-only role 'system' messages require `text` blocks, not "
        f"`{block['type']}`"
    )


def test_a_system_message_is_checked_like_any_other_text(read: Any) -> None:
    assert read.refusal(messages=[USER, system(" ")]) == (
        "messages: text content blocks must contain non-whitespace text"
    )
    for name, value in (("clear_at", "never"), ("output_config", {"effort": "low"})):
        asked = [USER, {"role": "system", "content": [], name: value}]
        assert read.refusal(messages=asked) == f"messages.1.{name}: Extra inputs are not permitted"
        assert turns(read, USER, system("a") | {name: None})


@pytest.mark.parametrize(
    "beta", ["per-turn-control-2026-07-01", "mid-conversation-tool-changes-2026-07-01"]
)
def test_under_its_beta_a_system_message_may_steer_its_turn_to_no_effect(
    read: Any, beta: str
) -> None:
    on = {"betas": frozenset({beta})}
    steered = system("a") | {"clear_at": "never", "output_config": {"effort": "low"}}
    asked = read(on=on, messages=[USER, steered])
    assert asked.ignored == ("messages.clear_at", "messages.output_config")
    assert asked.conversation == read(messages=[USER, system("a")]).conversation
    silent = {"role": "system", "content": [], "output_config": {"effort": "low"}}
    asked = read(on=on, messages=[silent, USER, silent, USER, ASSISTANT, silent])
    assert asked.conversation == read(messages=[USER, USER, ASSISTANT]).conversation
    assert read.refusal(on=on, messages=[USER | {"clear_at": "never"}]) == (
        "messages.0.clear_at: Extra inputs are not permitted"
    )


# --- tools that come and go --------------------------------------------------------------------


def test_a_tool_that_is_added_is_defined_where_it_appears(read: Any) -> None:
    note = system(text("More tools."), change("tool_addition", "cat"))
    asked = read(on=CHANGES, tools=TOOLS, messages=[USER, note])
    ls, cat = asked.demands.callable_tools
    assert (ls.name, cat.name) == ("ls", "cat")
    assert asked.conversation.tools == (ls,)
    (turn,) = asked.conversation.messages
    assert turn.content[1:] == (
        NoteBlock(text="More tools."),
        ToolDefinitionBlock(tool=cat),
    )


def test_a_tool_that_is_known_already_is_not_defined_again(read: Any) -> None:
    asked = read(on=CHANGES, tools=TOOLS, messages=[USER, system(change("tool_addition", "ls"))])
    assert asked.conversation.messages == (message("user", "hi"),)


def test_a_tool_that_is_taken_away_stays_in_the_prompt_and_cannot_be_called(read: Any) -> None:
    """What was read before is cached; the operator's note says that it is gone."""
    for beta in ("mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"):
        asked = read(
            on={"betas": frozenset({beta})},
            tools=TOOLS,
            messages=[USER, system(change("tool_removal", "ls"))],
        )
        assert [tool.name for tool in asked.conversation.tools] == ["ls"]
        assert asked.demands.callable_tools == ()
        assert asked.conversation.messages == (noted("hi", "The tool ls can no longer be called."),)


def test_a_tool_may_come_back(read: Any) -> None:
    gone, back = change("tool_removal", "ls"), change("tool_addition", "ls")
    asked = read(
        on=CHANGES, tools=TOOLS, messages=[USER, system(gone), ASSISTANT, USER, system(back)]
    )
    (ls,) = asked.demands.callable_tools
    assert asked.conversation.messages[-1].content[-1] == ToolDefinitionBlock(tool=ls)


@pytest.mark.parametrize("kind", ["tool_addition", "tool_removal"])
def test_tools_come_and_go_only_under_their_beta_and_by_a_known_name(read: Any, kind: str) -> None:
    messages = [USER, system(text("a"), change(kind, "ls"))]
    words = "messages.1.content.1: Extra inputs are not permitted"
    assert read.refusal(tools=TOOLS, messages=messages) == words
    unknown = [USER, system(change(kind, "rm"))]
    error = read.error(on=CHANGES, tools=TOOLS, messages=unknown)
    assert error.message == "Tool reference 'rm' not found in available tools"
    assert error.details == {"error_code": "tool_reference_unresolved"}


# --- what is left out --------------------------------------------------------------------------

HOSTED = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": "x"},
    {"type": "fallback"},
    {"type": "compaction", "content": None, "encrypted_content": "x"},
]


def test_what_the_hosted_service_did_is_passed_over(read: Any) -> None:
    cited = text("yes", citations=[{"type": "web_search_result_location", "url": "x"}])
    assert turns(read, USER, assistant(*HOSTED, cited), USER)[1] == message("assistant", "yes")


def test_a_summary_of_the_conversation_is_the_assistants_text(read: Any) -> None:
    summary = {"type": "compaction", "content": "We said hi.", "signature": "s"}
    assert turns(read, USER, assistant(summary), USER)[1] == message("assistant", "We said hi.")


def test_a_turn_that_holds_nothing_for_this_model_is_left_out(read: Any) -> None:
    """And the turns around it are one: no template meets an empty turn."""
    for block in (*HOSTED, THINKING):
        assert turns(read, USER, assistant(block), USER) == (message("user", "hi", "hi"),)
        assert turns(read, USER, assistant(block)) == turns(read, USER)
        kept = turns(read, USER, ASSISTANT, assistant(block), USER)
        assert kept[1] == message("assistant", "hello")


@pytest.mark.parametrize("block", [*HOSTED, {"type": "compaction", "content": "x"}])
def test_the_user_cannot_have_done_what_the_hosted_service_does(
    read: Any, block: dict[str, Any]
) -> None:
    assert read.refusal(messages=[user(block)]) == (
        f"messages.0.content.0: `{block['type']}` blocks can only be in `assistant` messages"
    )
