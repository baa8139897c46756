"""A body is read strictly, and the first thing wrong with it is named as the contract words it."""

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from senryu.server.wire import blocks, requests, tools
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, parse

GOOD: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "hi"}],
}
USER = {"role": "user", "content": "hi"}


def with_(**changed: Any) -> dict[str, Any]:
    return GOOD | changed


def saying(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return with_(messages=[{"role": role, "content": list(blocks)}])


def read(body: Any) -> MessagesRequest:
    return parse(MessagesRequest, json.dumps(body).encode())


def refusal(body: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    return caught.value.message


def test_the_smallest_good_body_is_read() -> None:
    request = read(GOOD)
    assert (request.model, request.max_tokens, request.stream) == ("m", 10, None)
    assert request.messages[0].role == "user"


def test_a_string_is_the_same_as_one_text_block() -> None:
    blocks = with_(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    assert read(GOOD) == read(blocks)
    assert read(with_(system="s")) == read(with_(system=[{"type": "text", "text": "s"}]))


def test_null_on_an_optional_field_is_the_same_as_its_absence() -> None:
    optional = [
        name for name, field in MessagesRequest.model_fields.items() if not field.is_required()
    ]
    assert len(optional) > 20
    assert read(with_(**dict.fromkeys(optional))) == read(GOOD)


@pytest.mark.parametrize("field", ["model", "messages", "max_tokens"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != field}
    assert refusal(body) == f"{field}: Field required"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"max_tokens": "10"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 1.5}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 10.0}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"model": "m" * 257}, "model: String should have at most 256 characters"),
        ({"model": 5}, "model: Input should be a valid string"),
        ({"stream": "true"}, "stream: Input should be a valid boolean"),
        ({"stream": 1}, "stream: Input should be a valid boolean"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"temperature": -0.1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": "1"}, "temperature: Input should be a valid number"),
        ({"temperature": True}, "temperature: Input should be a valid number"),
        ({"top_p": 1.01}, "top_p: Input should be less than or equal to 1"),
        ({"top_k": -1}, "top_k: Input should be greater than or equal to 0"),
        ({"top_k": 1.0}, "top_k: Input should be a valid integer"),
        ({"stop_sequences": "x"}, "stop_sequences: Input should be a valid list"),
        ({"stop_sequences": ["x", 1]}, "stop_sequences.1: Input should be a valid string"),
        ({"service_tier": "priority"}, "service_tier: Input should be 'auto' or 'standard_only'"),
        ({"speed": "slow"}, "speed: Input should be 'standard' or 'fast'"),
        ({"metadata": {"x": 1}}, "metadata.x: Extra inputs are not permitted"),
        (
            {"metadata": {"user_id": "u" * 4097}},
            "metadata.user_id: String should have at most 4096 characters",
        ),
        ({"frob": 1}, "frob: Extra inputs are not permitted"),
        ({"betas": []}, "betas: Extra inputs are not permitted"),
        ({"store": True}, "store: Extra inputs are not permitted"),
        ({"compaction": {"type": "summarize"}}, "compaction: Extra inputs are not permitted"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"stop_sequences": ["x"] * 1001}, "stop_sequences: List should have at most 1000 items"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role: Field required"),
        (
            {"messages": [USER, USER | {"name": "n"}]},
            "messages.1.name: Extra inputs are not permitted",
        ),
        (
            {"messages": [{"role": "tool", "content": "hi"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        (
            {"messages": [{"role": "developer", "content": "hi"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        (
            {"context_management": {"clear": True}},
            "context_management.clear: Extra inputs are not permitted",
        ),
        ({"system": 5}, "system: Input should be a valid list"),
        (
            {"system": [{"type": "image", "text": "x"}]},
            "system.0.type: Input should be 'text'",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            {"thinking": {"type": "disabled", "display": "omitted"}},
            "thinking.disabled.display: Extra inputs are not permitted",
        ),
        (
            {"cache_control": {"type": "ephemeral", "ttl": "2h"}},
            "cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
        ),
        (
            {"cache_control": {"type": "forever"}},
            "cache_control: Input tag 'forever' found using 'type' does not match any of the "
            "expected tags: 'ephemeral'",
        ),
        (
            {"context_management": {"edits": [{"type": "clear_all"}]}},
            "context_management.edits.0: Input tag 'clear_all' found using 'type' does not match "
            "any of the expected tags: 'clear_thinking_20251015', 'clear_tool_uses_20250919', ",
        ),
        (
            {
                "context_management": {
                    "edits": [{"type": "clear_tool_uses_20250919", "clear_tool_inputs": "all"}]
                }
            },
            "context_management.edits.0.clear_tool_uses_20250919.clear_tool_inputs.bool: Input "
            "should be a valid boolean",
        ),
        (
            {
                "context_management": {
                    "edits": [
                        {
                            "type": "clear_thinking_20251015",
                            "keep": {"type": "thinking_turns", "value": 0},
                        }
                    ]
                }
            },
            "context_management.edits.0.clear_thinking_20251015.keep.thinking_turns.value: Input "
            "should be greater than or equal to 1",
        ),
        (
            {"tools": [{"type": "text_editor_20250429", "name": "str_replace_editor"}]},
            "tools.0.text_editor_20250429.name: Input should be 'str_replace_based_edit_tool'",
        ),
        (
            {"tools": [{"type": "memory_20250818", "name": "memory", "max_characters": 5}]},
            "tools.0.memory_20250818.max_characters: Extra inputs are not permitted",
        ),
        (
            {"tools": [{"type": "computer_20250124", "name": "computer"}]},
            "tools.0.computer_20250124.display_width_px: Field required",
        ),
        (
            {
                "tools": [
                    {
                        "type": "computer_20250124",
                        "name": "computer",
                        "display_width_px": 1,
                        "display_height_px": 1,
                        "enable_zoom": True,
                    }
                ]
            },
            "tools.0.computer_20250124.enable_zoom: Extra inputs are not permitted",
        ),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash", "eager_input_streaming": True}]},
            "tools.0.bash_20250124.eager_input_streaming: Extra inputs are not permitted",
        ),
        (
            {"tool_choice": {"type": "some"}},
            "tool_choice: Input tag 'some' found using 'type' does not match any of the expected "
            "tags: 'auto', 'any', 'tool', 'none'",
        ),
        ({"output_config": {"effort": "huge"}}, "output_config.effort: Input should be 'low', "),
        (
            {"tools": [{"name": "n" * 129, "input_schema": {"type": "object"}}]},
            "tools.0.custom.name: String should have at most 128 characters",
        ),
        (
            {"tools": [{"name": "a b", "input_schema": {"type": "object"}}]},
            "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        ),
        (
            {"tools": [{"name": "a", "input_schema": {}}]},
            "tools.0.custom.input_schema.type: Field required",
        ),
        (
            {"tools": [{"type": "custom", "name": "a", "input_schema": {"type": "array"}}]},
            "tools.0.custom.input_schema.type: Input should be 'object'",
        ),
        (
            {"tools": [{"type": "bash_20250124", "name": "sh"}]},
            "tools.0.bash_20250124.name: Input should be 'bash'",
        ),
        (
            {"tools": [{"type": "teapot", "name": "t"}]},
            "tools.0: Input tag 'teapot' found using 'type' does not match any of the expected "
            "tags: 'custom', 'bash_20250124'",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(changed: dict[str, Any], text: str) -> None:
    assert refusal(with_(**changed)).startswith(text)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "text"}, "messages.0.content.0.text.text: Field required"),
        (
            {"type": "text", "text": 1},
            "messages.0.content.0.text.text: Input should be a valid string",
        ),
        (
            {"type": "text", "text": "a", "x": 1},
            "messages.0.content.0.text.x: Extra inputs are not permitted",
        ),
        (
            {"type": "video"},
            "messages.0.content.0: Input tag 'video' found using 'type' does not match any of the "
            "expected tags: 'text', 'image', 'document'",
        ),
        ({"text": "a"}, "messages.0.content.0: Unable to extract tag using discriminator 'type'"),
        (
            {"type": "tool_use", "id": "a b", "name": "n", "input": {}},
            "messages.0.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        ),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": ""}},
            "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', ",
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "thinking"}]},
            "messages.0.content.0.tool_result.content.0: Input tag 'thinking' found using 'type' "
            "does not match any of the expected tags: 'text', 'image', 'document'",
        ),
        (
            {"type": "tool_reference", "tool_name": "x"},
            "messages.0.content.0: Input tag 'tool_reference' found using 'type' does not match",
        ),
        (
            {"type": "tool_addition", "tool": {"type": "tool", "name": "x"}},
            "messages.0.content.0.tool_addition.tool: Input tag 'tool' found using 'type' does not "
            "match any of the expected tags: 'tool_reference'",
        ),
        (
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1d"}},
            "messages.0.content.0.text.cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
        ),
        (
            {"type": "thinking", "thinking": "", "signature": "", "cache_control": None},
            "messages.0.content.0.thinking.cache_control: Extra inputs are not permitted",
        ),
    ],
)
def test_a_wrong_block_is_named_with_the_tag_that_matched(block: Any, text: str) -> None:
    assert refusal(saying(block)).startswith(text)


def test_a_tool_result_that_is_a_string_or_absent_or_empty_is_no_mistake() -> None:
    contents: list[dict[str, Any]] = [{"content": "done"}, {}, {"content": []}, {"content": None}]
    for content in contents:
        read(saying({"type": "tool_result", "tool_use_id": "call_1"} | content))


def test_the_pattern_of_a_name_holds_to_its_very_end() -> None:
    tool = {"name": "a\n", "input_schema": {"type": "object"}}
    assert "String should match pattern" in refusal(with_(tools=[tool]))


def test_claude_codes_ordinary_fields_are_read() -> None:
    """Schemas with extra keywords, adaptive thinking, JSON in user_id, cache marks with a scope."""
    tool = {
        "name": "Bash",
        "description": "d" * 10_000,
        "input_schema": {"$schema": "x", "type": "object", "additionalProperties": {}},
        "cache_control": {"type": "ephemeral", "scope": "global"},
    }
    request = read(
        with_(
            tools=[tool, tool | {"type": None}],
            thinking={"type": "adaptive"},
            metadata={"user_id": '{"device_id":"x"}'},
            output_config={"effort": "high"},
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            safeguards={"any": "thing"},
        )
    )
    assert request.tools
    assert [entry.type for entry in request.tools] == ["custom", "custom"]


def test_a_schema_keeps_the_order_of_its_keys() -> None:
    """What the model reads begins with the same bytes as long as the client sends the same."""
    schema = {"properties": {"b": {}, "a": {}}, "$schema": "x", "type": "object", "required": []}
    (tool,) = read(with_(tools=[{"name": "a", "input_schema": schema}])).tools or ()
    assert json.dumps(tool.input_schema) == json.dumps(schema)


def test_what_to_keep_of_thinking_may_be_said_in_a_word() -> None:
    for keep in ("all", {"type": "all"}):
        edit = {"type": "clear_thinking_20251015", "keep": keep}
        assert read(with_(context_management={"edits": [edit]})).context_management


def test_a_hundred_thousand_messages_are_the_most() -> None:
    text = refusal(with_(messages=[USER] * 100_001))
    assert text.startswith("messages: List should have at most 100000 items")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null garbage",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        rb'{"model": "\ud800"}',
        rb'{"model": "\udc00\ud800"}',
        b'{"model": "\xff"}',
        b'{"model": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b'{"model": "a\nb"}',
        b"{'model': 'm'}",
        b'{"model": "m",}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        json.dumps(GOOD).encode("utf-16"),
    ],
)
def test_what_is_not_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^The request body is not valid JSON: "):
        parse(MessagesRequest, body)


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"', b"true", b'[{"model": "m"}]'])
def test_json_that_is_no_object_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="valid JSON: an object is required"):
        parse(MessagesRequest, body)


def test_numbers_beyond_any_machine_word_are_refused_and_do_no_harm() -> None:
    for number in (b"9" * 400, b"1e400", b"-1e400", b"-" + b"9" * 20):
        text = b'{"model":"m","messages":[],"max_tokens":%b}' % number
        with pytest.raises(InvalidRequest):
            parse(MessagesRequest, text)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
def test_an_integer_of_any_length_comes_back_as_it_was_written(number: int) -> None:
    call = {"type": "tool_use", "id": "a", "name": "ls", "input": {"n": [number, 0.5]}}
    (block,) = read(saying(call, role="assistant")).messages[0].content
    assert isinstance(block, blocks.ToolUse)
    assert block.input == call["input"]
    assert type(block.input["n"][0]) is int


@pytest.mark.parametrize(
    "more", [b'"x": NaN', b'"x": -Infinity', rb'"x": "\ud800"', b'"x": "\xff"', b'"x": 1e400']
)
def test_beside_a_long_integer_json_is_read_as_strictly(more: bytes) -> None:
    text = json.dumps(GOOD | {"tags": 2**70}).encode()[:-1] + b", " + more + b"}"
    with pytest.raises(InvalidRequest, match=r"^The request body is not valid JSON: "):
        parse(MessagesRequest, text)


def test_a_value_nested_deeper_than_it_could_be_written_again_is_refused() -> None:
    deep = b'{"model":"m","max_tokens":1,"messages":[],"tags":%b}'
    assert parse(MessagesRequest, deep % (b"[" * 150 + b"]" * 150)).tags
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        parse(MessagesRequest, deep % (b"[" * 1000 + b"]" * 1000))


def test_of_a_key_given_twice_the_last_counts() -> None:
    body = b'{"model":"a","model":"b","max_tokens":1,"messages":[]}'
    assert parse(MessagesRequest, body).model == "b"


def test_nul_is_a_character_like_any_other() -> None:
    assert read(with_(model="a\0b")).model == "a\0b"


@pytest.mark.parametrize(
    "more", [{"stream": True}, {"compaction": {"type": "summarize"}}, {"safeguards": {}}]
)
def test_counting_tokens_tolerates_what_reused_bodies_carry(more: dict[str, Any]) -> None:
    assert parse(CountTokensRequest, json.dumps(GOOD | more).encode()).model == "m"


@pytest.mark.parametrize("field", ["temperature", "metadata", "stop_sequences", "service_tier"])
def test_counting_tokens_refuses_other_fields_of_a_message(field: str) -> None:
    absent = {"model": "m", "messages": [USER], field: None}
    assert parse(CountTokensRequest, json.dumps(absent).encode()).model == "m"
    body = json.dumps(absent | {field: 1}).encode()
    with pytest.raises(InvalidRequest, match=f"^{field}: Extra inputs are not permitted$"):
        parse(CountTokensRequest, body)


@pytest.mark.parametrize("name", ["betas", "anthropic_beta", "max_token", "Model", ""])
def test_only_the_first_failing_place_is_reported(name: str) -> None:
    text = refusal({name: 1, "max_tokens": "x", "messages": 5})
    assert text == "model: Field required"


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": ["hi"]},
        {"system": [{"type": "text", "text": "a", "cache_control": 1}]},
        {"metadata": 1},
        {"context_management": []},
        {"tools": [{"name": "a", "input_schema": 1}]},
    ],
)
def test_what_should_be_an_object_is_said_without_the_name_of_our_class(
    changed: dict[str, Any],
) -> None:
    assert refusal(with_(**changed)).endswith(": Input should be a valid dictionary")


CLASSES = {
    name
    for module in (blocks, requests, tools)
    for name, kind in vars(module).items()
    if isinstance(kind, type)
}
PLACES = [
    *MessagesRequest.model_fields,
    "messages.0",
    "messages.0.content",
    "messages.0.content.0",
    "system.0",
    "tools.0",
    "tools.0.input_schema",
    "messages.0.content.0.cache_control",
]


@pytest.mark.parametrize("wrong", [1, -1, 1.5, "x", "", True, [], [1], [[]], {}, {"type": 1}])
@pytest.mark.parametrize("place", PLACES)
def test_no_refusal_speaks_our_language(place: str, wrong: Any) -> None:
    """Neither classes nor Python's types: `MessageParam`, `function-before`, `dict[str, any]`."""
    body: Any = with_(
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        system=[{"type": "text", "text": "s"}],
        tools=[{"name": "ls", "input_schema": {"type": "object"}}],
    )
    *path, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    inner = body
    for key in path:
        inner = inner[key]
    inner[last] = wrong
    try:
        read(body)
    except InvalidRequest as error:
        words = set(re.findall(r"\w+", error.message))
        assert not words & (CLASSES | {"function", "dict", "str", "instance", "nullable"})


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": [USER | {"content": [{"type": "tixt"}] * 1000}]},
        {"messages": [USER | {"role": "me"}] * 1000},
        {
            "messages": [USER | {"content": [{"type": "tool_result", "tool_use_id": "t"}]}] * 10
            + [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": [1] * 1000}],
                }
            ]
        },
        {"system": [{}] * 1000},
        {"tools": [{}] * 1000},
        {"tools": [{"name": "a", "input_schema": {"type": "object"}, "input_examples": [1] * 99}]},
        {"stop_sequences": [1] * 1000},
        {"context_management": {"edits": [1] * 1000}},
        {"mcp_servers": [1] * 20},
        {f"key{number}": number for number in range(1000)},
        {"metadata": {f"key{number}": number for number in range(1000)}},
    ],
)
def test_reading_stops_at_the_first_failure(changed: dict[str, Any]) -> None:
    """To collect a million failures, of which one is told, takes half a minute."""
    with pytest.raises(ValidationError) as caught:
        MessagesRequest.model_validate(with_(**changed))
    assert caught.value.error_count() <= 2  # of one item


def test_in_a_flood_of_unknown_keys_the_first_is_named_and_the_known_ones_count() -> None:
    flood = {f"key{number}": number for number in range(1000)}
    assert refusal(flood | GOOD) == "key0: Extra inputs are not permitted"
    assert refusal(flood | GOOD | {"model": 5}) == "model: Input should be a valid string"
    form = {"type": "json_schema", "schema": {}}
    assert refusal(GOOD | {"output_config": {"format": flood | form}}) == (
        "output_config.format.key0: Extra inputs are not permitted"
    )
