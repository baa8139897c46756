"""What was asked is read right, and each 400 of the contract's catalogue is given in its words."""

import json
from typing import Any

import pytest

from senryu.server.conversation.intake import _merged, read_conversation, read_sampling
from senryu.server.conversation.messages import Conversation, Message, Sampling, TextBlock
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, parse

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
MARK = {"type": "ephemeral"}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}


def request(**changed: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 10, "messages": [USER]} | changed
    return parse(MessagesRequest, json.dumps(body).encode())


def conversation(**changed: Any) -> Conversation:
    return read_conversation(request(**changed), model="m")


def sampling(*, limit: int = 1000, refuse_knobs: str | None = None, **changed: Any) -> Sampling:
    return read_sampling(request(**changed), model="m", limit=limit, refuse_knobs=refuse_knobs)


def refusal(**changed: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        conversation(**changed)
    return caught.value.message


def refused_sampling(**changed: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        sampling(**changed)
    return caught.value.message


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def system(words: str) -> dict[str, Any]:
    return {"role": "system", "content": words}


def message(role: Any, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextBlock(text=each) for each in texts))


# --- what is read ------------------------------------------------------------------------------


def test_a_conversation_is_its_system_blocks_and_its_turns() -> None:
    read = conversation(
        system=[text("one "), text(" two\n")],
        messages=[USER, ASSISTANT, user(text("a"), text("b"))],
    )
    assert read == Conversation(
        system=(TextBlock(text="one "), TextBlock(text=" two\n")),
        messages=(message("user", "hi"), message("assistant", "hello"), message("user", "a", "b")),
    )
    assert read.system_text == "one  two\n"
    assert read.messages[-1].text == "ab"
    assert read.prefill is None


@pytest.mark.parametrize("system", [None, "", []])
def test_an_empty_system_prompt_is_none_at_all(system: Any) -> None:
    assert conversation(system=system) == conversation()


def test_consecutive_entries_of_a_role_are_one_turn() -> None:
    """Row 17: user, user, assistant, assistant, user."""
    read = conversation(messages=[USER, user(text("there")), ASSISTANT, assistant(text("!")), USER])
    assert read.messages == (
        message("user", "hi", "there"),
        message("assistant", "hello", "!"),
        message("user", "hi"),
    )


def test_a_final_assistant_entry_is_the_start_of_the_answer() -> None:
    read = conversation(messages=[USER, ASSISTANT, assistant(text(" wor"), text("ld"))])
    assert read.prefill == "hello world"


def test_an_empty_final_assistant_entry_means_nothing() -> None:
    empty: tuple[Any, ...] = ("", [])
    for content in empty:
        assert conversation(messages=[USER, {"role": "assistant", "content": content}]) == (
            conversation()
        )


def test_the_reasoning_of_another_model_is_passed_over() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    read = conversation(messages=[USER, assistant(*thoughts, text("yes")), USER])
    assert read.messages[1] == message("assistant", "yes")


def test_a_system_message_is_a_marked_block_at_the_end_of_the_users_turn() -> None:
    """Contract 1.3.2. These bytes are in cached prompts: they do not change."""
    read = conversation(messages=[USER, system("Be brief."), ASSISTANT, USER])
    assert read.messages == (
        message("user", "hi", "\n\n<system>\nBe brief.\n</system>"),
        message("assistant", "hello"),
        message("user", "hi"),
    )
    last = conversation(messages=[USER, system("Be brief.")])
    assert last.messages == read.messages[:1]


def test_a_system_message_reads_the_same_as_text_and_as_a_block() -> None:
    """Claude Code sends a block while it is the last message, and a string from then on."""
    block = {"role": "system", "content": [text("Be brief.")]}
    for following in ([], [ASSISTANT], [ASSISTANT, USER]):
        assert conversation(messages=[USER, block, *following]) == (
            conversation(messages=[USER, system("Be brief."), *following])
        )


def test_several_system_messages_in_a_row_are_one_section() -> None:
    read = conversation(messages=[USER, system("a"), system("b"), ASSISTANT])
    assert read.messages[0] == message("user", "hi", "\n\n<system>\na\nb\n</system>")


HOSTED = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": "x"},
    {"type": "fallback"},
    {"type": "compaction", "content": None, "encrypted_content": "x"},
]


def test_what_the_hosted_service_did_is_passed_over() -> None:
    cited = text("yes", citations=[{"type": "web_search_result_location", "url": "x"}])
    read = conversation(messages=[USER, assistant(*HOSTED, cited), USER])
    assert read.messages[1] == message("assistant", "yes")


def test_a_summary_of_the_conversation_is_the_assistants_text() -> None:
    summary = {"type": "compaction", "content": "We said hi.", "signature": "s"}
    read = conversation(messages=[USER, assistant(summary), USER])
    assert read.messages[1] == message("assistant", "We said hi.")


def test_a_turn_that_holds_nothing_for_this_model_is_left_out() -> None:
    """And the turns around it are one: no template meets an empty turn."""
    for block in (*HOSTED, THINKING):
        read = conversation(messages=[USER, assistant(block), USER])
        assert read.messages == (message("user", "hi", "hi"),)
        assert conversation(messages=[USER, assistant(block)]) == conversation()
        read = conversation(messages=[USER, ASSISTANT, assistant(block), USER])
        assert read.messages[1] == message("assistant", "hello")


@pytest.mark.parametrize("block", [*HOSTED, {"type": "compaction", "content": "x"}])
def test_the_user_cannot_have_done_what_the_hosted_service_does(block: dict[str, Any]) -> None:
    assert refusal(messages=[user(block)]) == (
        f"messages.0.content.0: `{block['type']}` blocks can only be in `assistant` messages"
    )


def test_as_many_entries_as_may_be_sent_are_one_turn() -> None:
    """In time that grows with their number; squared, this would not end."""
    entries = [message("user", "x")] * 200_000
    (merged,) = _merged(entries)
    assert len(merged.content) == 200_000


def test_what_means_nothing_here_is_accepted() -> None:
    plain = conversation()
    assert plain == conversation(
        metadata={"user_id": "u"},
        service_tier="auto",
        speed="standard",
        inference_geo="eu",
        thinking={"type": "disabled"},
        output_config={"effort": "low"},
        context_management={"edits": []},
        mcp_servers=[],
        tools=[],
        container=None,
        diagnostics={"previous_message_id": None},
        safeguards={"x": 1},
        fallbacks=[],
    )
    assert plain == conversation(thinking={"type": "adaptive"})
    keep_all = {"type": "clear_thinking_20251015", "keep": "all"}
    for edits in ([keep_all], [keep_all | {"keep": {"type": "all"}}], None):
        assert plain == conversation(context_management={"edits": edits})
    assert plain == conversation(messages=[user(text("hi", citations=[], cache_control=None))])


def test_defaults_of_sampling_are_the_contracts() -> None:
    assert sampling() == Sampling(
        max_tokens=10, temperature=1.0, top_p=1.0, top_k=0, stop_sequences=()
    )


def test_every_knob_of_sampling_is_honoured() -> None:
    """Row 8: temperature and top_p together are fine for a local model."""
    assert sampling(
        temperature=0, top_p=0.5, top_k=3, stop_sequences=["a", "b"], max_tokens=7
    ) == Sampling(max_tokens=7, temperature=0.0, top_p=0.5, top_k=3, stop_sequences=("a", "b"))


def test_as_many_tokens_as_the_limit_may_be_asked_for() -> None:
    assert sampling(max_tokens=1000).max_tokens == 1000


def test_nothing_to_be_written_may_be_asked_for() -> None:
    assert sampling(max_tokens=0).max_tokens == 0


# --- what is refused: the numbered rows of 6.1 and 6.2 -----------------------------------------


def test_row_4_more_tokens_than_the_model_may_write() -> None:
    assert refused_sampling(max_tokens=1001) == (
        "max_tokens: 1001 > 1000, which is the maximum allowed number of output tokens for m"
    )


def test_row_5_nothing_to_be_written_cannot_be_streamed() -> None:
    message = refused_sampling(max_tokens=0, stream=True)
    assert message.startswith("max_tokens: 0 ")
    assert "stream" in message


@pytest.mark.parametrize(("name", "value"), [("temperature", 1), ("top_p", 1), ("top_k", 0)])
def test_row_7_the_current_version_refuses_each_knob_at_any_value(name: str, value: Any) -> None:
    message = refused_sampling(refuse_knobs="2026-10-21", **{name: value})
    assert message.startswith(f"{name}: ")
    assert "2026-10-21" in message
    assert sampling(refuse_knobs="2026-10-21", **dict[str, Any]({name: None})) == sampling()


def test_row_10_no_messages() -> None:
    assert refusal(messages=[]) == "messages: at least one message is required"


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([""], "stop_sequences: each stop sequence must be non-empty"),
        (["a", ""], "stop_sequences: each stop sequence must be non-empty"),
        (["\n"], "stop_sequences: each stop sequence must contain non-whitespace"),
        ([" \t"], "stop_sequences: each stop sequence must contain non-whitespace"),
    ],
)
def test_row_11_empty_and_blank_stop_sequences(sequences: list[str], words: str) -> None:
    assert refused_sampling(stop_sequences=sequences) == words


def test_row_16_the_first_message_is_the_users() -> None:
    assert refusal(messages=[ASSISTANT, USER]) == (
        'messages: first message must use the "user" role'
    )


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
def test_row_19_system_messages_out_of_place(messages: list[str], words: str) -> None:
    asked = [{"role": role, "content": "be brief"} for role in messages]
    assert refusal(messages=asked).startswith(words)


def test_the_sentence_on_system_messages_names_the_right_parameter() -> None:
    assert refusal(messages=[system("a")]).endswith(
        "use the top-level 'system' parameter for the initial system prompt"
    )


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "tool_addition", "tool": {}}, "Extra inputs are not permitted"),
        ({"type": "tool_removal", "tool": {}}, "Extra inputs are not permitted"),
        ({"type": "server_tool_use"}, "text-only role 'system' messages require `text` blocks"),
        (
            {"type": "container_upload", "file_id": "f"},
            "text-only role 'system' messages require `text` blocks, not `container_upload`",
        ),
    ],
)
def test_row_19_system_messages_hold_text_only(block: dict[str, Any], words: str) -> None:
    note = {"role": "system", "content": [text("a"), block]}
    assert refusal(messages=[USER, note]).startswith(f"messages.1.content.1: {words}")


def test_a_system_message_is_checked_like_any_other_text() -> None:
    assert refusal(messages=[USER, system("")]).startswith("messages.1: all messages must have")
    assert refusal(messages=[USER, system(" ")]) == (
        "messages: text content blocks must contain non-whitespace text"
    )
    for name, value in (("clear_at", "never"), ("output_config", {"effort": "low"})):
        asked = [USER, {"role": "system", "content": [], name: value}]
        assert refusal(messages=asked) == f"messages.1.{name}: Extra inputs are not permitted"
        assert conversation(messages=[USER, system("a") | {name: None}]).messages


@pytest.mark.parametrize("content", ["", []])
@pytest.mark.parametrize(
    ("before", "role", "after"),
    [([], "user", []), ([USER], "assistant", [USER]), ([USER, ASSISTANT], "user", [])],
)
def test_row_20_a_message_without_content(
    content: Any, before: list[Any], role: str, after: list[Any]
) -> None:
    empty = {"role": role, "content": content}
    assert refusal(messages=[*before, empty, *after]) == (
        f"messages.{len(before)}: all messages must have non-empty content except for the optional "
        "final assistant message"
    )


def test_row_21_an_empty_text_block() -> None:
    assert refusal(messages=[user(text("a"), text(""))]) == (
        "messages: text content blocks must be non-empty"
    )
    assert refusal(system=[text("")]) == "system: text content blocks must be non-empty"


@pytest.mark.parametrize("blank", [" ", "\n", "\t \r\n", "\u3000"])
def test_row_22_a_blank_text_block(blank: str) -> None:
    words = "messages: text content blocks must contain non-whitespace text"
    assert refusal(messages=[user(text(blank))]) == words
    assert refusal(messages=[{"role": "user", "content": blank}]) == words


@pytest.mark.parametrize("ending", ["hello ", "hello\n", "hello\u3000"])
def test_row_23_a_started_answer_that_ends_in_whitespace(ending: str) -> None:
    words = "messages: final assistant content cannot end with trailing whitespace"
    assert refusal(messages=[USER, {"role": "assistant", "content": ending}]) == words
    empty = {"role": "assistant", "content": ""}
    assert refusal(messages=[USER, {"role": "assistant", "content": ending}, empty]) == words


def test_row_23_a_model_without_prefill() -> None:
    asked = request(messages=[USER, ASSISTANT])
    with pytest.raises(InvalidRequest) as caught:
        read_conversation(asked, model="m", prefill=False)
    assert caught.value.message == (
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message."
    )


TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {}}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}
SEARCH = {"type": "search_result", "source": "s", "title": "t", "content": [text("x")]}


@pytest.mark.parametrize("block", [TOOL_USE, THINKING, {"type": "redacted_thinking", "data": ""}])
def test_row_24_what_only_the_model_can_have_written(block: dict[str, Any]) -> None:
    assert refusal(messages=[user(text("a"), block)]) == (
        f"messages.0.content.1: `{block['type']}` blocks can only be in `assistant` messages"
    )


@pytest.mark.parametrize(
    "block", [TOOL_RESULT, IMAGE, SEARCH, {"type": "container_upload", "file_id": "f"}]
)
def test_row_24_what_only_the_user_can_have_sent(block: dict[str, Any]) -> None:
    assert refusal(messages=[USER, assistant(block), USER]) == (
        f"messages.1.content.0: `{block['type']}` blocks can only be in `user` messages"
    )


# --- what is not honoured yet: a 400 that names it, never silence ------------------------------

TOOL = {"name": "ls", "input_schema": {"type": "object"}}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"tools": [{"type": "computer_toolset_20260801"}]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "none"}}, "tool_choice"),
        ({"output_config": {"format": SCHEMA}}, "output_config.format"),
        ({"output_format": SCHEMA}, "output_format"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits.0: ",
        ),
        (
            {
                "context_management": {
                    "edits": [
                        {"type": "clear_thinking_20251015", "keep": "all"},
                        {
                            "type": "clear_thinking_20251015",
                            "keep": {"type": "thinking_turns", "value": 1},
                        },
                    ]
                }
            },
            "context_management.edits.1: ",
        ),
        ({"context_management": {"edits": [{}]}}, "context_management.edits.0: "),
        (
            {"system": [text("a"), text("b", citations=[{"type": "char_location"}])]},
            "system.1.citations",
        ),
        ({"container": ""}, "container"),
        ({"container": {}}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"container": "container_1"}, "container"),
        ({"container": {"skills": [{"type": "anthropic"}]}}, "container"),
        ({"cache_control": MARK}, "cache_control"),
        ({"system": [text("a"), text("b", cache_control=MARK)]}, "system.1.cache_control"),
        (
            {"messages": [USER, ASSISTANT, user(text("a"), text("b", cache_control=MARK))]},
            "messages.2.content.1.text.cache_control",
        ),
        (
            {"messages": [user(TOOL_RESULT | {"cache_control": MARK})]},
            "messages.0.content.0.tool_result.cache_control",
        ),
        ({"messages": [user(text("a"), IMAGE)]}, "messages.0.content.1: `image`"),
        ({"messages": [user(DOCUMENT)]}, "messages.0.content.0: `document`"),
        ({"messages": [user(SEARCH)]}, "messages.0.content.0: `search_result`"),
        ({"messages": [user(TOOL_RESULT)]}, "messages.0.content.0: `tool_result`"),
        ({"messages": [USER, assistant(TOOL_USE), USER]}, "messages.1.content.0: `tool_use`"),
        (
            {"messages": [user(text("a", citations=[{"type": "char_location"}]))]},
            "messages.0.content.0.text.citations",
        ),
        ({"messages": [USER | {"clear_at": "never"}]}, "messages.0.clear_at"),
        ({"messages": [USER | {"output_config": {"effort": "low"}}]}, "messages.0.output_config"),
    ],
)
def test_a_field_that_is_not_honoured_yet_is_named(changed: dict[str, Any], place: str) -> None:
    assert refusal(**changed).startswith(place)


@pytest.mark.parametrize(
    "thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "between_tools"}]
)
def test_thinking_that_a_plain_model_cannot_do_is_named(thinking: dict[str, Any]) -> None:
    assert refusal(thinking=thinking).startswith(
        f'"thinking.type.{thinking["type"]}" is not supported for this model.'
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"tool_choice": {"type": "auto"}},
        {"output_format": SCHEMA},
        {"cache_control": MARK},
        {"system": [text("a", cache_control=MARK)]},
    ],
)
def test_counting_tokens_refuses_the_same_fields(changed: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [USER]} | changed
    asked = parse(CountTokensRequest, json.dumps(body).encode())
    with pytest.raises(InvalidRequest):
        read_conversation(asked, model="m")


@pytest.mark.parametrize(
    "thread",
    [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, {}],
)
def test_a_thread_is_refused_so_that_the_sdk_goes_on_without(thread: dict[str, Any]) -> None:
    """Contract 1.9.1: before anything else, for the continuation is no conversation by itself."""
    asked = request(thread=thread, messages=[user(TOOL_RESULT)])
    with pytest.raises(InvalidRequest) as caught:
        read_conversation(asked, model="m")
    assert caught.value.details == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
