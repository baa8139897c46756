"""What holds for every request: nothing but an answer or one error comes of reading it, how a turn
is cut into entries means nothing, and a longer conversation begins with the shorter one."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.server.conversation.intake import Asked, read_request, read_sampling
from senryu.server.wire.errors import ApiError
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, parse

RUNS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TOOL = {"name": "ls", "input_schema": {"type": "object", "properties": {"a": {"pattern": "^a"}}}}

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda t: not t.isspace()
)
texts = st.builds(lambda text: {"type": "text", "text": text}, words)


@st.composite
def tool_loops(draw: st.DrawFn) -> list[list[Any]]:
    """Turns of the user's and the model's, as lists of blocks, that a tool loop may have made."""
    turns: list[list[Any]] = []
    waiting: list[str] = []
    for turn in range(draw(st.integers(1, 4))):
        results = [
            {"type": "tool_result", "tool_use_id": name, "content": draw(st.text(max_size=5))}
            for name in draw(st.permutations(waiting))
        ]
        said = draw(st.lists(texts, min_size=0 if results else 1, max_size=3))
        turns.append([*results, *said])
        waiting = [f"toolu_{turn}_{number}" for number in range(draw(st.integers(0, 3)))]
        calls = [{"type": "tool_use", "id": name, "name": "ls", "input": {}} for name in waiting]
        turns.append([*draw(st.lists(texts, min_size=0 if calls else 1, max_size=2)), *calls])
    results = [{"type": "tool_result", "tool_use_id": name} for name in waiting]
    return [*turns, [*results, {"type": "text", "text": "well?"}]]


def entries(turns: list[list[Any]]) -> list[Any]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": blocks}
        for number, blocks in enumerate(turns)
    ]


@RUNS
@given(turns=tool_loops(), data=st.data())
def test_how_a_turn_is_cut_into_entries_means_nothing(
    read: Any, turns: list[list[Any]], data: st.DataObject
) -> None:
    cut = []
    for entry in entries(turns):
        end = data.draw(st.integers(1, len(entry["content"])))
        for part in (entry["content"][:end], entry["content"][end:]):
            if part:
                cut.append(entry | {"content": part})
    assert read(messages=cut) == read(messages=entries(turns))


@RUNS
@given(turns=tool_loops())
def test_a_longer_conversation_begins_with_the_shorter_one(
    read: Any, turns: list[list[Any]]
) -> None:
    """So that what was read of it once need not be read again."""
    whole = read(messages=entries(turns)).conversation.messages
    assert len(whole) == len(turns)
    for end in range(1, len(turns), 2):
        assert read(messages=entries(turns[:end])).conversation.messages == whole[:end]


@RUNS
@given(turns=tool_loops(), data=st.data())
def test_a_conversation_that_lacks_one_result_is_refused(
    read: Any, turns: list[list[Any]], data: st.DataObject
) -> None:
    places = [
        (number, place)
        for number, blocks in enumerate(turns)
        for place, block in enumerate(blocks)
        if block["type"] == "tool_result"
    ]
    if not places:
        return
    number, place = data.draw(st.sampled_from(places))
    name = turns[number][place]["tool_use_id"]
    turns[number] = [block for block in turns[number] if block != turns[number][place]]
    turns[number] = turns[number] or [{"type": "text", "text": "never mind"}]
    assert read.refusal(messages=entries(turns)).startswith(
        f"messages.{number - 1}: `tool_use` ids were found without `tool_result` blocks "
        f"immediately after: {name}. "
    )


# What any place of a request may hold by mistake, or by malice.
SHARDS: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**30, "", " ", "x", "auto", "any", "tool", "none", "enabled"),
    *("adaptive", "ephemeral", "1h", "object", "user", "assistant", "system", [], {}, [[]]),
    {"type": "text", "text": "x"},
    {"type": "text", "text": ""},
    {"type": "tool_use", "id": "a", "name": "ls", "input": {}},
    {"type": "tool_result", "tool_use_id": "a"},
    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "browser_state"}]},
    {"type": "tool_reference", "tool_name": "ls"},
    {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "ls"}},
    {"type": "thinking", "thinking": "x", "signature": "AAAA"},
    {"type": "compaction"},
    {"type": "ephemeral", "ttl": "1h"},
    {"type": "any"},
    {"type": "enabled", "budget_tokens": 1024},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a", "a", 1]},
    {"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": 5, "anyOf": [1], "enum": 3, "minItems": "x", "allOf": 1},
    {
        "type": "object",
        "additionalProperties": False,
        "$schema": "https://x/draft-04/schema#",
        "$defs": {"a": {"enum": 3, "format": [], "required": 5, "minItems": [], "type": {}}},
    },
    json.loads('{"type":' * 500 + '"object"' + "}" * 500),
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": []},
    {"role": "system", "content": "hi"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
    {"type": "document", "source": {"type": "content", "content": []}},
    {"type": "bash_20250124", "name": "bash"},
]
RICH: dict[str, Any] = {
    "model": "m",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "system", "content": [{"type": "text", "text": "note"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "x", "signature": "AAAA"},
                {"type": "tool_use", "id": "a", "name": "ls", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [{"type": "tool_reference", "tool_name": "ls"}],
                }
            ],
        },
    ],
    "tools": [TOOL, TOOL | {"name": "cat", "strict": True, "input_examples": [{}]}],
    "tool_choice": {"type": "tool", "name": "ls"},
    "thinking": {"type": "adaptive"},
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "metadata": {"user_id": "u"},
}


def places(value: Any, found: list[Callable[[Any], None]]) -> list[Callable[[Any], None]]:
    """Ways to put something else in each place of a value."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append(lambda shard, key=key: value.__setitem__(key, shard))  # type: ignore[misc]
            places(value[key], found)
    return found


@settings(RUNS, max_examples=600)
@given(data=st.data())
def test_of_any_body_comes_what_was_asked_or_one_error(read: Any, data: st.DataObject) -> None:
    body = json.loads(json.dumps(RICH))
    for _ in range(data.draw(st.integers(1, 4))):
        put = data.draw(st.sampled_from(places(body, [])))
        put(json.loads(json.dumps(data.draw(st.sampled_from(SHARDS)))))
    terms = read.terms(
        thinks=data.draw(st.booleans()),
        sees=data.draw(st.booleans()),
        strict=data.draw(st.booleans()),
        version=data.draw(st.sampled_from(["2023-06-01", "2026-10-21"])),
        betas=frozenset({"inline-tools-2026-09-15", "context-management-2025-06-27"}),
    )
    sent = json.dumps(body).encode()
    shape = data.draw(st.sampled_from([MessagesRequest, CountTokensRequest]))
    try:
        request = parse(shape, sent)
        assert isinstance(read_request(request, terms), Asked)
        if isinstance(request, MessagesRequest):
            read_sampling(request, terms, limit=10_000)
    except ApiError as error:
        assert error.status in (400, 404)  # noqa: PT017
        assert "\n" not in error.message[:200]  # noqa: PT017
