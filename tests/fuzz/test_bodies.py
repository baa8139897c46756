"""Bodies that were good and then changed at random: what a buggy client sends, and a hostile one.

Promised whatever is sent: no 5xx; an error has the contract's shape; an answer is well formed,
costs what count_tokens says, is the same streamed or not, and is taken back in the next request.
"""

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import SCRIPTS, Judge, runs
from hypothesis import given
from hypothesis import strategies as st
from wellformed import check_message, check_stream

BASE = Path(__file__).parents[1] / "server" / "claude_code" / "base.json"
CLAUDE_CODE = json.loads(BASE.read_text())["body"]
CLAUDE_CODE["tools"] = CLAUDE_CODE["tools"][:3] + CLAUDE_CODE["tools"][-2:]

pytestmark = pytest.mark.fuzz

EPHEMERAL = {"type": "ephemeral"}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"anyOf": [{"type": "integer"}, {"const": 1}]}},
    "required": ["a"],
    "additionalProperties": False,
}
LOOK = {"name": "look", "description": "Looks.", "input_schema": SCHEMA, "strict": True}
MEMORY = {
    "type": "memory_20250818",
    "name": "memory",
    "input_examples": [{"command": "view", "path": "/memories"}],
}
PIXEL = {
    "type": "base64",
    "media_type": "image/png",
    "data": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(),
}
TEXT = {"type": "text", "media_type": "text/plain", "data": "Paris lies on the Seine."}
DOCUMENT = {"type": "document", "source": TEXT, "title": "Atlas", "cache_control": EPHEMERAL}
FOUND = {
    "type": "search_result",
    "source": "atlas",
    "title": "Rivers",
    "content": [{"type": "text", "text": "The Seine."}],
}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [FOUND], "is_error": True}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2VhbA=="}


def good(*messages: Any, **more: Any) -> dict[str, Any]:
    turns = [{"role": role, "content": content} for role, content in messages]
    return {"model": "scripted", "max_tokens": 2000, "messages": turns, **more}


GOOD = (
    good(("user", "hi")),
    good(("user", "hi"), ("assistant", "I say"), stop_sequences=["a", "x\n"], temperature=0.5),
    good(("user", "hi"), stream=True, system="Be brief.", metadata={"user_id": "me"}, top_k=3),
    good(("user", "hi"), tools=[LOOK], tool_choice={"type": "any"}, stream=True),
    good(
        ("user", [DOCUMENT, {"type": "text", "text": "Well?"}]),
        ("assistant", [THOUGHT, CALLED]),
        ("user", [RESULT, {"type": "text", "text": "?"}]),
        ("system", [{"type": "text", "text": "Go on.", "cache_control": EPHEMERAL}]),
        tools=[LOOK, {"type": "bash_20250124", "name": "bash"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
    ),
    good(
        ("user", "hi"),
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
        thinking={"type": "adaptive", "display": "omitted"},
        cache_control=EPHEMERAL,
        diagnostics={"previous_message_id": None},
    ),
    good(("user", [{"type": "image", "source": PIXEL}, {"type": "text", "text": "What is it?"}])),
    good(
        ("user", "hi"),
        ("assistant", [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]),
        ("user", "go on"),
        tools=[
            {"name": "old", "input_schema": {"type": "object"}, "defer_loading": True},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            MEMORY,
        ],
    ),
    CLAUDE_CODE,
)
HEADERS = (
    {},
    {"anthropic-version": "2023-06-01"},
    {"anthropic-version": "2026-10-21"},
    {"anthropic-version": "2023-06-01", "anthropic-beta": "context-management-2025-06-27, x"},
    {"anthropic-version": "2023-06-01", "anthropic-beta": "interleaved-thinking-2025-05-14"},
)

VERTEX = "/v1/projects/p/locations/l/publishers/anthropic/models"
OTHER_DOORS = (
    "/v1/messages/count_tokens",
    f"{VERTEX}/count-tokens:rawPredict",
    f"{VERTEX}/scripted:rawPredict",
    f"{VERTEX}/scripted:streamRawPredict",
)

# Every word that means something somewhere, so that a change can land on it.
WORDS = sorted(
    {
        word
        for body in GOOD
        for node in [json.dumps(body)]
        for word in node.replace('"', " ").replace(":", " ").replace(",", " ").split()
        if word.isidentifier() and len(word) < 30
    }
    | {"redacted_thinking", "tool_reference", "tool_addition", "compaction", "between_tools"}
    | {"computer_toolset_20260801", "web_search_20250305", "url", "file", "content", "thread"}
)


def nested(levels: int, inside: Any = "x") -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


# What no client should send: sizes, characters, depths and schemas beyond all measure.
ODD = (
    *(None, True, False, 0, 1, -1, 1.5, 1023, 2**31, 2**63, 10**30, 1e308, float("nan")),
    *("", " ", "\n", "\0", "\x02\x03\x10", "\ud800", "\U0001f600", "e\u0301", "\u202e", "x" * 5000),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>", "{"),
    *([], {}, [[]], [{}], {"": ""}, nested(10), nested(100), {"type": "text", "text": "hi"}),
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
    {"type": "object", "patternProperties": {"^(a+)+$": {}}, "minProperties": 10**9},
    {"type": "object", "properties": {str(n): {"type": "string"} for n in range(300)}},
    {"type": "object", "properties": {"a": {"enum": list(range(2000))}}},
    {"type": "object", "properties": {"a": nested(40, {"type": "string"})}},
)

anything = st.one_of(
    st.integers(0, len(ODD) - 1).map(lambda number: copy.deepcopy(ODD[number])),
    st.sampled_from(WORDS),
    st.text(max_size=30),
    st.integers(),
    st.floats(),
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
        max_leaves=5,
    ),
)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a body, as what holds it and where."""
    held = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in held:
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


# Refused where they stand, but read before that.
REFUSED = (
    {"type": "web_search_20250305", "name": "web_search", "cache_control": EPHEMERAL},
    {"type": "computer_toolset_20260801", "cache_control": EPHEMERAL},
)
SPARE = [holder[key] for body in GOOD for holder, key in places(body)] + [*REFUSED] * 3
# By its number, and copied: what is put into a body may be changed there.
spare = st.integers(0, len(SPARE) - 1).map(lambda number: copy.deepcopy(SPARE[number]))


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same kind: most of them will do as well."""
    match value:
        case bool():
            return st.just(not value)
        case int() | float():
            return st.sampled_from([value + 1, value * 2, 0]) | st.integers(0, 5000)
        case str():
            return st.text(max_size=50) | st.text("ab</>{}\n \0\x02é😀", min_size=1)
        case list():
            return st.permutations(value).map(list)
        case _:
            return st.just(dict(reversed(value.items())) if isinstance(value, dict) else value)


CHANGES = ("nudge",) * 6 + ("drop", "replace", "transplant", "wrap", "double", "add")


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A good body, in which up to four things are not as they were."""
    body = copy.deepcopy(GOOD[draw(st.integers(0, len(GOOD) - 1))])
    for _ in range(draw(st.integers(0, 4))):
        found = list(places(body))
        if not found:
            break
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(CHANGES)):
            case "nudge":
                holder[key] = draw(alike(holder[key]))
            case "drop":
                del holder[key]
            case "replace":
                holder[key] = draw(anything)
            case "transplant":
                holder[key] = draw(spare)
            case "wrap":
                holder[key] = [holder[key]]
            case "double" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS))] = draw(spare)
            case _:
                holder.append(draw(spare))
    return body


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same in two answers to one question: of the second more was cached."""
    made = ("id", "signature")
    content = [{k: v for k, v in b.items() if k not in made} for b in message["content"]]
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    usage = {k: v for k, v in message["usage"].items() if k not in (*parts, "cache_creation")}
    usage["prompt"] = sum(message["usage"][part] for part in parts)
    return {k: v for k, v in message.items() if k != "id"} | {"content": content, "usage": usage}


def one_round_on(body: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """The next request of the conversation, as a client makes it of an answer."""
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "done"}
        for block in message["content"]
        if block["type"] == "tool_use"
    ]
    answer = {"role": "assistant", "content": message["content"]}
    reply = {"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]}
    asked = [each for each in body["messages"] if each["content"]]  # a start that was none is gone
    return body | {"messages": [*asked, answer, reply]}


@runs(400)
@given(
    body=changed(),
    headers=st.sampled_from(HEADERS),
    script=st.integers(0, len(SCRIPTS) - 1),
    strict=st.booleans(),
)
def test_a_changed_body_is_answered_well_or_refused_well(
    judge: Judge, body: dict[str, Any], headers: dict[str, str], script: int, strict: bool
) -> None:
    of = {"script": script, "strict": strict}
    message = judge.answered(body, headers, **of)
    if message is None:
        return
    assert judge.counted(body, headers, **of) == judge.charged(message)
    if message["content"]:
        assert judge.answered(one_round_on(body, message), headers, **of), message
    if body["max_tokens"] > 0:
        other = judge.answered(body | {"stream": not body.get("stream")}, headers, **of)
        assert other is not None
        assert without_ids(other) == without_ids(message)


@runs(100)
@given(
    body=changed(),
    path=st.sampled_from(OTHER_DOORS),
    version=st.sampled_from([None, "vertex-2023-10-16", "2026-10-21", "2099-01-01", 7, ["x"]]),
    betas=st.sampled_from([None, ["context-management-2025-06-27"], "x", [1]]),
)
def test_the_other_doors_answer_as_well(
    judge: Judge, body: dict[str, Any], path: str, version: Any, betas: Any
) -> None:
    stated = {"anthropic_version": version, "anthropic_beta": betas}
    if ":" in path:
        body = body | {key: value for key, value in stated.items() if value is not None}
    response = judge.post(path, body)
    if response.status_code != 200 or "count" in path:
        return
    if response.headers["content-type"] == "application/json":
        check_message(response.json())
    else:
        check_stream(response.text)


@runs(50)
@given(
    number=st.integers(0),
    of=st.integers(0, len(GOOD) - 1),
    levels=st.sampled_from([50, 150, 300, 500, 2_000, 100_000]),
    wrapped=st.sampled_from(["[X]", '{"a": X}', '{"type": "object", "properties": {"a": X}}']),
)
def test_no_depth_is_too_deep(
    judge: Judge, number: int, of: int, levels: int, wrapped: str
) -> None:
    """The value is put in as text: it is too deep to be copied, or encoded."""
    body = copy.deepcopy(GOOD[of])
    found = list(places(body))
    holder, key = found[number % len(found)]
    holder[key] = "DEEP"
    first, last = wrapped.split("X")
    deep = first * levels + "1" + last * levels
    content = json.dumps(body).replace('"DEEP"', deep, 1)
    for path in ("/v1/messages", *OTHER_DOORS):
        judge.send(judge.client().build_request("POST", path, content=content))


@runs(50)
@given(body=st.sampled_from(GOOD), cut=st.integers(0, 2000), junk=st.binary(max_size=20))
def test_bytes_that_are_no_json_are_refused_well(
    judge: Judge, body: dict[str, Any], cut: int, junk: bytes
) -> None:
    whole = json.dumps(body).encode()
    cut %= len(whole)
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        content = whole[:cut] + junk + whole[cut + 1 :]
        request = judge.client().build_request("POST", path, content=content)
        assert judge.send(request).status_code in (200, 400, 404)


def test_a_body_that_is_left_as_it_was_is_answered(judge: Judge) -> None:
    """So that the changes above begin with something that would have been read."""
    refused = [body for body in GOOD if judge.answered(body) is None]
    assert [body["messages"][0]["content"][0] for body in refused] == [
        {"type": "image", "source": PIXEL}
    ]
