"""What was asked is read right as a whole: system prompt, sampling, forms of answers, and what of
it has no effect here."""

from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    TextBlock,
    Thinking,
)

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
TOOL = {"name": "ls", "input_schema": {"type": "object"}}
BUDGET = {"type": "enabled", "budget_tokens": 1024}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def message(role: Any, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextBlock(text=each) for each in texts))


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "schema": schema}}


# --- the system prompt -------------------------------------------------------------------------


def test_a_conversation_is_its_system_blocks_and_its_turns(read: Any) -> None:
    asked = read(
        system=[text("one "), text(" two\n")],
        messages=[USER, ASSISTANT, {"role": "user", "content": [text("a"), text("b")]}],
    )
    conversation = asked.conversation
    assert conversation == Conversation(
        system=(TextBlock(text="one "), TextBlock(text=" two\n")),
        messages=(message("user", "hi"), message("assistant", "hello"), message("user", "a", "b")),
    )
    assert conversation.system_text == "one  two\n"
    assert (asked.demands, asked.edits, asked.ignored) == (Demands(), None, ())


@pytest.mark.parametrize("system", [None, "", []])
def test_an_empty_system_prompt_is_none_at_all(read: Any, system: Any) -> None:
    assert read(system=system) == read()


BILLING = "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=cli; cch=ab12;"


def test_the_line_that_differs_from_session_to_session_is_dropped(read: Any) -> None:
    """Contract 7: with it, no two sessions would share the beginning of a prompt."""
    plain = read(system=[text("You are"), text(" a poet.")]).conversation
    assert read(system=[text(BILLING), text("You are"), text(" a poet.")]).conversation == plain
    in_one = read(system=f"{BILLING}\n\nYou are a poet.").conversation
    assert in_one == read(system="You are a poet.").conversation
    assert read(system=BILLING) == read()


@pytest.mark.parametrize(
    "line",
    [
        BILLING.rstrip(";"),
        f"{BILLING} later_key=; x.y=a/b=c;",
        "x-anthropic-billing-header:cch=1",
        BILLING + "  ",
    ],
)
def test_that_line_is_known_by_its_shape_whatever_its_keys(read: Any, line: str) -> None:
    for system in (f"{line}\nYou are a poet.", [text(line), text("You are a poet.")]):
        assert read(system=system).conversation.system_text == "You are a poet."


@pytest.mark.parametrize(
    "line", ["x-anthropic-billing-header: what does it mean?", "x-anthropic-billing-header:", "x-a"]
)
def test_a_text_about_that_line_stays(read: Any, line: str) -> None:
    assert read(system=line).conversation.system_text == line


def test_elsewhere_that_line_is_text_like_any_other(read: Any) -> None:
    system = read(system=[text("Say:"), text(BILLING)]).conversation.system_text
    assert system == f"Say:{BILLING}"


def test_a_flood_of_such_pairs_takes_no_time(read: Any) -> None:
    line = "x-anthropic-billing-header:" + " a=b" * 50_000 + " !"
    assert read(system=line).conversation.system_text == line


def test_an_empty_block_of_the_system_prompt_is_refused(read: Any) -> None:
    assert read.refusal(system=[text("")]) == "system: text content blocks must be non-empty"


# --- the form of the answer --------------------------------------------------------------------


def test_an_answer_gives_the_required_properties_first(read: Any) -> None:
    """Contract 1.8.2, at each level; all other keys stay where they were."""
    inner = {"type": "object", "properties": {"x": {}, "y": {}, "z": {}}, "required": ["z", "y"]}
    schema = {
        "$schema": "s",
        "properties": {"a": inner, "b": {"const": {"properties": 1}}, "c": {"items": inner}},
        "required": ["c"],
        "type": "object",
        "$defs": {"d": inner, "e": True},
        "anyOf": [inner, True],
    }
    ordered = read(output_config=schema_format(schema)).demands.output_schema
    assert ordered == schema
    assert list(ordered) == list(schema)
    assert list(ordered["properties"]) == ["c", "a", "b"]
    for place in (
        ordered["properties"]["a"],
        ordered["properties"]["c"]["items"],
        ordered["$defs"]["d"],
        ordered["anyOf"][0],
    ):
        assert list(place["properties"]) == ["y", "z", "x"]


def test_the_old_name_of_the_format_is_read_as_well(read: Any) -> None:
    new = read(output_config={"format": SCHEMA})
    assert read(output_format=SCHEMA) == new
    assert read.refusal(output_format=SCHEMA, output_config={"format": SCHEMA}).startswith(
        "output_format: cannot be combined with output_config.format"
    )


def test_strict_reading_wants_the_beta_of_the_old_name(read: Any) -> None:
    assert read.refusal(on={"strict": True}, output_format=SCHEMA) == (
        "output_format: This field is deprecated. Use 'output_config.format' instead."
    )
    closed = SCHEMA | {"schema": {"type": "object", "additionalProperties": False}}
    on = {"strict": True, "betas": frozenset({"structured-outputs-2025-11-13"})}
    assert read(on=on, output_format=closed).demands.output_schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strong"}, "output_config.format.schema: JSON schema is invalid: "),
        ({"$ref": "https://x.example/s"}, "output_config.format.schema: JSON schema is invalid: "),
    ],
)
def test_a_schema_that_is_none_is_refused(read: Any, schema: dict[str, Any], words: str) -> None:
    assert read.refusal(output_config=schema_format(schema)).startswith(words)


# --- prefill -----------------------------------------------------------------------------------


def test_a_final_assistant_entry_is_the_start_of_the_answer(read: Any) -> None:
    more = {"role": "assistant", "content": [text(" wor"), text("ld")]}
    assert read(messages=[USER, ASSISTANT, more]).conversation.prefill == "hello world"
    assert read().conversation.prefill is None


@pytest.mark.parametrize("ending", ["hello ", "hello\n", "hello\u3000"])
def test_a_started_answer_does_not_end_in_whitespace(read: Any, ending: str) -> None:
    words = "messages: final assistant content cannot end with trailing whitespace"
    begun = {"role": "assistant", "content": ending}
    assert read.refusal(messages=[USER, begun]) == words
    assert read.refusal(messages=[USER, begun, {"role": "assistant", "content": ""}]) == words


def test_a_model_without_prefill_says_so(read: Any) -> None:
    assert read.refusal(on={"prefill": False}, messages=[USER, ASSISTANT]) == (
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message."
    )


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"thinking": BUDGET, "max_tokens": 2000}, "thinking"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"output_config": {"format": SCHEMA}}, "output_config.format"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "a tool_choice that forces tool use"),
    ],
)
def test_a_started_answer_goes_with_no_form_of_its_own(
    read: Any, changed: dict[str, Any], name: str
) -> None:
    words = f"messages: a final assistant message (prefill) cannot be combined with {name}"
    assert read.refusal(on={"thinks": True}, messages=[USER, ASSISTANT], **changed) == words


def test_a_started_answer_is_only_what_was_said(read: Any) -> None:
    sealed = read.signer.sign("hm", model="m", shown=True)
    thought = {"type": "thinking", "thinking": "hm", "signature": sealed}
    begun = {"role": "assistant", "content": [thought, text("hello")]}
    asked = read(on={"thinks": True}, messages=[USER, begun])
    assert asked.conversation.prefill == "hello"
    assert asked.conversation.messages[-1].content == (TextBlock(text="hello"),)
    assert asked.ignored == ("messages.thinking",)


def test_thoughts_alone_start_no_answer(read: Any) -> None:
    sealed = read.signer.sign("hm", model="m", shown=True)
    thought = {"type": "thinking", "thinking": "hm", "signature": sealed}
    begun = {"role": "assistant", "content": [thought]}
    asked = read(on={"thinks": True}, messages=[USER, begun], thinking={"type": "adaptive"})
    assert asked.conversation.prefill is None
    assert asked.conversation == read().conversation
    assert asked.ignored == ("messages.thinking",)


# --- what has no effect here -------------------------------------------------------------------


def test_what_means_nothing_here_is_accepted(read: Any) -> None:
    assert read() == read(
        metadata={"user_id": "u"},
        service_tier="auto",
        speed="standard",
        thinking={"type": "disabled"},
        output_config={"effort": "high"},
        mcp_servers=[],
        tools=[],
        container=None,
        diagnostics={"previous_message_id": None},
        fallbacks=[],
    )
    assert read() == read(thinking={"type": "adaptive"})
    block = text("hi", citations=[], cache_control=None)
    assert read() == read(messages=[{"role": "user", "content": [block]}])


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"service_tier": "standard_only"}, ["service_tier"]),
        ({"inference_geo": "eu"}, ["inference_geo"]),
        ({"safeguards": {"x": 1}, "tags": ["a"]}, ["safeguards", "tags"]),
        ({"fallbacks": [{"model": "x"}]}, ["fallbacks"]),
        ({"output_config": {"effort": "low"}}, ["output_config.effort"]),
        (
            {"output_config": {"task_budget": {"type": "tokens", "total": 20_000}}},
            ["output_config.task_budget"],
        ),
        ({"thinking": {"type": "between_tools"}}, ["thinking"]),
        (
            {"tools": [TOOL | {"allowed_callers": ["direct", "code_execution_20250825"]}]},
            ["tools.allowed_callers"],
        ),
    ],
)
def test_what_was_asked_for_and_is_not_done_is_named(
    read: Any, changed: dict[str, Any], names: list[str]
) -> None:
    assert list(read(**changed).ignored) == names


def test_effort_has_its_effect_on_a_model_that_is_asked_to_think(read: Any) -> None:
    asked = read(
        on={"thinks": True}, thinking={"type": "adaptive"}, output_config={"effort": "low"}
    )
    assert asked.demands.thinking == Thinking(effort="low")
    assert asked.ignored == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"speed": "fast"}, "speed: 'fast' is not supported by m"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: "),
        ({"container": ""}, "container: "),
        ({"container": "container_1"}, "container: "),
        ({"container": {"skills": [{"type": "anthropic"}]}}, "container: "),
    ],
)
def test_what_cannot_be_done_at_all_is_refused_by_name(
    read: Any, changed: dict[str, Any], words: str
) -> None:
    assert read.refusal(**changed).startswith(words)


@pytest.mark.parametrize(
    "thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, {}]
)
def test_a_thread_is_refused_so_that_the_sdk_goes_on_without(
    read: Any, thread: dict[str, Any]
) -> None:
    """Contract 1.9.1: before anything else, for the continuation is no conversation by itself."""
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
    error = read.error(thread=thread, messages=[{"role": "user", "content": [result]}])
    assert error.details == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert (error.status, error.type) == (400, "invalid_request_error")


def test_strict_reading_keeps_user_ids_short(read: Any) -> None:
    long = {"user_id": "u" * 257}
    assert read(metadata=long)
    assert read.refusal(on={"strict": True}, metadata=long) == (
        "metadata.user_id: String should have at most 256 characters"
    )


# --- sampling ----------------------------------------------------------------------------------


def test_defaults_of_sampling_are_the_contracts(read: Any) -> None:
    assert read.sampling() == Sampling(
        max_tokens=10, temperature=1.0, top_p=1.0, top_k=0, stop_sequences=()
    )


def test_every_knob_of_sampling_is_honoured(read: Any) -> None:
    asked = read.sampling(
        temperature=0, top_p=0.5, top_k=3, stop_sequences=["a", "b"], max_tokens=7
    )
    assert asked == Sampling(
        max_tokens=7, temperature=0.0, top_p=0.5, top_k=3, stop_sequences=("a", "b")
    )


def test_the_smallest_share_of_tokens_is_the_likeliest_one(read: Any) -> None:
    """Engines want top_p above 0."""
    assert read.sampling(top_p=0, top_k=3) == Sampling(max_tokens=10, top_p=1.0, top_k=1)


def test_strict_reading_takes_only_one_of_two_knobs(read: Any) -> None:
    assert read.refused_sampling(on={"strict": True}, temperature=1, top_p=1) == (
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    )


@pytest.mark.parametrize("limit", [10, 0])
def test_as_many_tokens_as_the_limit_may_be_asked_for(read: Any, limit: int) -> None:
    assert read.sampling(limit=limit, max_tokens=limit).max_tokens == limit


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"stream": True}, "stream"),
        ({"thinking": BUDGET}, "thinking"),
        ({"output_config": {"format": SCHEMA}}, "output_config.format"),
        ({"output_format": SCHEMA}, "output_config.format"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "ls"}}, "tool_choice"),
    ],
)
def test_where_nothing_is_written_nothing_about_the_answer_can_be_asked(
    read: Any, changed: dict[str, Any], name: str
) -> None:
    message = read.refused_sampling(max_tokens=0, **changed)
    assert message.startswith("max_tokens: 0 ")
    assert message.endswith(f"cannot be combined with {name}")


def test_where_nothing_is_written_tools_may_still_be_known(read: Any) -> None:
    """A pre-warmed prompt is that of the request that follows."""
    adaptive = {"type": "adaptive"}
    assert (
        read.sampling(
            max_tokens=0, tools=[TOOL], tool_choice={"type": "auto"}, thinking=adaptive
        ).max_tokens
        == 0
    )


@pytest.mark.parametrize(("name", "value"), [("temperature", 1), ("top_p", 1), ("top_k", 0)])
def test_the_current_version_refuses_each_knob_at_any_value(
    read: Any, name: str, value: Any
) -> None:
    current = {"version": "2026-10-21"}
    message = read.refused_sampling(on=current, **{name: value})
    assert message.startswith(f"{name}: ")
    assert "2026-10-21" in message
    assert read.sampling(on=current, **{name: None}) == read.sampling()
    assert read.sampling(on=current | {"lenient_sampling": True}, **{name: value})


@pytest.mark.parametrize("thinking", [BUDGET, {"type": "adaptive"}])
@pytest.mark.parametrize(
    ("knob", "name"),
    [
        (
            {"temperature": 0.9},
            "`temperature` may only be set to 1 when thinking is enabled or in ",
        ),
        ({"top_k": 5}, "`top_k` "),
        ({"top_p": 0.94}, "`top_p` "),
    ],
)
def test_a_model_that_thinks_keeps_its_knobs_where_they_are(
    read: Any, thinking: dict[str, Any], knob: dict[str, Any], name: str
) -> None:
    asked = {"thinking": thinking, "max_tokens": 2000}
    assert read.refused_sampling(on={"thinks": True}, **asked, **knob).startswith(name)
    assert read.sampling(on={"thinks": True}, **asked, temperature=1, top_p=0.95)
    assert read.sampling(on={"thinks": False}, max_tokens=2000, **knob)
    assert read.sampling(on={"thinks": True}, thinking={"type": "disabled"}, **knob)
    assert read.sampling(on={"thinks": True, "lenient_sampling": True}, **asked, **knob)


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([""], "stop_sequences: each stop sequence must be non-empty"),
        (["a", ""], "stop_sequences: each stop sequence must be non-empty"),
        (["\n"], "stop_sequences: each stop sequence must contain non-whitespace"),
        ([" \t"], "stop_sequences: each stop sequence must contain non-whitespace"),
    ],
)
def test_a_stop_sequence_has_something_in_it(read: Any, sequences: list[str], words: str) -> None:
    assert read.refused_sampling(stop_sequences=sequences) == words
