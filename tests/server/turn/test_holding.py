"""A schema is restated for the grammar: never wider where it is held, told where it is not, and of
bounded size."""

import json
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from senryu.server.turn.holding import held, too_much

AB = {"a": {"type": "string"}, "b": {"type": "integer"}}
A = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
ANY = {"type": "object", "additionalProperties": True}
LIST = {"type": "array", "items": True}


@pytest.mark.parametrize(
    ("schema", "restated"),
    [
        (True, True),
        ({}, True),
        ({"type": "object"}, ANY),
        ({"title": "T", "description": "what", "default": 3, "type": "integer"},
         {"type": "integer"}),
        ({"type": "string", "minLength": 0}, {"type": "string"}),
        ({"pattern": "^[a-z]{1,9}$"}, {"type": "string", "pattern": "^[a-z]{1,9}$"}),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "path"}, {"type": "string"}),
        ({"type": "integer", "minimum": 1.0, "exclusiveMaximum": 9},
         {"type": "integer", "minimum": 1, "exclusiveMaximum": 9}),
        # Names and values that look like keywords are none.
        ({"properties": {"minLength": {"type": "integer", "title": "T"}}},
         {"type": "object", "properties": {"minLength": {"type": "integer"}}}),
        ({"const": {"title": "T", "minLength": 9}}, {"enum": [{"title": "T", "minLength": 9}]}),
        ({"type": "string", "enum": ["x", 1]}, {"enum": ["x"]}),
        ({"type": ["integer", "null"], "minimum": 3},
         {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}),
        # What stands beside alternatives is said in each.
        ({"type": "object", "properties": AB, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
         {"anyOf": [{"type": "object", "properties": AB, "required": ["a"]},
                    {"type": "object", "properties": AB, "required": ["b"]}]}),
        ({"description": "d", "anyOf": [{"type": "string"}, {"type": "null"}]},
         {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "integer", "anyOf": [True, {"minimum": 3}]}, {"type": "integer"}),
        ({"type": "object", "anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}},
         {"anyOf": [{"$ref": "#/$defs/0"}], "$defs": {"0": A}}),
        # Parts that all hold are one schema.
        ({"type": "object", "properties": {"a": {}}, "required": ["a"],
          "allOf": [True, {"properties": {"b": {}}, "required": ["b"]}]},
         {"type": "object", "properties": {"a": True, "b": True}, "required": ["a", "b"]}),
        ({"allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "null"}}}],
          "$defs": {"A": A}},
         {**A, "properties": {**A["properties"], "b": {"type": "null"}}}),  # type: ignore[dict-item]
        ({"description": "d", "allOf": [{"$ref": "#/definitions/A"}], "definitions": {"A": A}},
         {"$ref": "#/$defs/0", "$defs": {"0": A}}),
        # A reference leads anywhere, also to itself.
        ({"properties": {"a": {"type": "null"}, "b": {"$ref": "#/properties/a"}}},
         {"type": "object", "properties": {"a": {"type": "null"}, "b": {"$ref": "#/$defs/0"}},
          "$defs": {"0": {"type": "null"}}}),
        ({"type": "array", "items": {"$ref": "#"}},
         {"type": "array", "items": {"$ref": "#/$defs/0"},
          "$defs": {"0": {"type": "array", "items": {"$ref": "#/$defs/0"}}}}),
        # A property that is required and described nowhere can be written.
        ({"type": "object", "required": ["a"]},
         {"type": "object", "required": ["a"], "properties": {"a": True}}),
        ({"required": ["a"], "additionalProperties": {"type": "null"}},
         {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"},
          "properties": {"a": {"type": "null"}}}),
        ({"type": "array", "minItems": 2}, {**LIST, "minItems": 2}),
        ({"items": [{"type": "null"}], "additionalItems": False},
         {"type": "array", "prefixItems": [{"type": "null"}], "items": False}),
    ],
)  # fmt: skip
def test_a_schema_is_restated_whole(schema: Any, restated: Any) -> None:
    given = held(schema)
    assert given.schema == restated
    assert given.whole


@pytest.mark.parametrize(
    ("schema", "restated"),
    [
        ({"type": "string", "minLength": 1}, {"type": "string"}),
        ({"type": "string", "maxLength": 5, "minLength": 2}, {"type": "string"}),
        ({"type": "string", "pattern": "^https?://"}, {"type": "string"}),
        ({"type": "object", "patternProperties": {"^x-": {}}, "additionalProperties": False}, ANY),
        ({"type": "object", "propertyNames": {"pattern": "^[a-z]$"}}, ANY),
        ({"type": "array", "uniqueItems": True}, LIST),
        ({"not": {}}, True),
        ({"type": "integer", "minimum": 0.5, "multipleOf": 5}, {"type": "integer"}),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True},
         {"type": "integer", "minimum": 3}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]},
         {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"enum": ["x", "yy"], "minLength": 2}, {"enum": ["x", "yy"]}),
        ({"type": "object", "properties": {"a": False}}, {"type": "object", "properties": {}}),
        ({"type": "object", "required": ["a"], "additionalProperties": False},
         {"type": "object", "required": ["a"], "additionalProperties": False}),
        ({"type": "object", "minProperties": 2}, {**ANY, "minProperties": 2}),
        # Contradictions, and what cannot be said in one.
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "string"}),
        ({"properties": {"a": {"type": "string"}}, "allOf": [{"additionalProperties": False}]},
         {"type": "object", "properties": {"a": {"type": "string"}}}),
        ({"type": "object", "properties": AB, "anyOf": [{"properties": {"a": {"const": "x"}}}]},
         {"type": "object", "properties": AB}),
        ({"type": "string", "$ref": "#/nowhere"}, {"type": "string"}),
        ({"$ref": "#/$defs/A", "properties": AB, "$defs": {"A": A}},
         {"$ref": "#/$defs/0", "$defs": {"0": A}}),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told(schema: Any, restated: Any) -> None:
    given = held(schema)
    assert given.schema == restated
    assert not given.whole


TWO = [{"required": ["x"]}, {"required": ["y"]}]
ROOTS: list[dict[str, Any]] = [
    {"type": "object", "allOf": [True], "properties": AB},
    {"type": "object", "allOf": [{"$ref": "#/$defs/A"}, {"properties": AB}], "$defs": {"A": A}},
    {"type": "object", "anyOf": TWO, "oneOf": TWO},
    {"type": "object", "anyOf": [True, {"type": "string"}]},
    {"type": "object", "anyOf": [{"$ref": "#/$defs/A"}, {"type": "string"}], "$defs": {"A": A}},
    {"type": "object", "anyOf": [{"$ref": "#/$defs/S"}], "$defs": {"S": {"type": "string"}}},
    {"type": "object", "$ref": "#/$defs/S", "$defs": {"S": {"enum": ["hello"]}}},
    {"type": "object", "$ref": "#"},
    {"type": "object", "enum": ["hello", {}]},
    {"type": "object", "const": "hello"},
    {"anyOf": [{"type": "object"}, {"type": "null"}]},
    {"type": ["object", "string"]},
    {"not": {"type": "string"}},
]


def only_objects(schema: Any, defined: dict[str, Any]) -> bool:
    if "$ref" in schema:
        return only_objects(defined[schema["$ref"].rpartition("/")[2]], defined)
    if "anyOf" in schema:
        return all(only_objects(each, defined) for each in schema["anyOf"])
    return bool(schema.get("type") == "object")


@pytest.mark.parametrize("schema", ROOTS)
def test_the_input_of_a_tool_is_an_object_whatever_its_schema(schema: dict[str, Any]) -> None:
    given = held(schema, an_object=True).schema
    assert only_objects(given, given.get("$defs", {}))


def test_the_clients_schema_is_not_changed() -> None:
    schema = {
        "properties": AB,
        "anyOf": [{"required": ["a"]}],
        "required": ["b"],
        "allOf": [{"properties": {"c": {}}, "required": ["c"]}],
        "title": "T" * 10_000,
    }
    before = json.dumps(schema)
    held(schema)
    assert json.dumps(schema) == before


def spreading() -> list[dict[str, Any]]:
    alternatives: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        alternatives = {"properties": {"a": alternatives}, "anyOf": [{"required": ["a"]}] * 10}
    doubling: dict[str, Any] = {"0": {"type": "object"}}
    for number in range(1, 40):
        below = [{"$ref": f"#/$defs/{number - 1}"}, {"minProperties": number}]
        doubling[str(number)] = {"properties": {"a": {"allOf": below}, "b": {"allOf": below}}}
    part = {"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}]}
    return [
        alternatives,
        {"$ref": "#/$defs/39", "$defs": doubling},
        {"$ref": "#/$defs/A", "$defs": {"A": part}},
        {"allOf": [{"properties": {f"p{n}": {}}} for n in range(2_500)]},
        {"allOf": [{"required": [f"p{n}"]} for n in range(4_000)]},
        {"anyOf": [{}] * 300, "properties": {"q": {"enum": ["a" * 9_000]}}},
    ]


@pytest.mark.parametrize("schema", spreading())
def test_no_schema_becomes_much_more_than_it_was(schema: dict[str, Any]) -> None:
    assert too_much(schema) is None
    before = time.process_time()
    given = held(schema, an_object=True)
    assert time.process_time() - before < 10  # 0.2 s; unbounded, they take hours
    assert len(json.dumps(given.schema)) < 500_000


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": 5, "allOf": "x", "properties": [1], "required": "a", "maxLength": "2"},
        {"allOf": [True], "anyOf": [True, False, 3], "items": [{"title": "T"}, 4]},
        {"properties": {"a": True}, "required": [1], "$defs": 3, "const": None},
        {"$ref": 5, "type": 7, "enum": 3},
        {"enum": "abc", "minimum": "x", "pattern": 4, "format": [], "type": ["string", 3]},
    ],
)
def test_what_is_no_schema_is_passed_on_without_a_fault(schema: dict[str, Any]) -> None:
    json.dumps(held(schema).schema)


# --- too much of one ---


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (nested(64), "it is nested more than 64 levels deep"),
        ({"description": "x" * 100_001}, "it is longer than 100,000 characters"),
        ({"enum": list(range(5_001))}, "it lists more than 5,000 things in one place"),
        ({"properties": {"a": {"minItems": 10**6}}}, "minItems is more than 100,000"),
        ({"maxProperties": 1e9}, "maxProperties is more than 100,000"),
    ],
)
def test_a_schema_beyond_measure_is_refused_in_words(schema: dict[str, Any], why: str) -> None:
    assert too_much(schema) == why


@pytest.mark.parametrize(
    "schema",
    [
        A,
        nested(63),
        {"properties": {"minItems": {"type": "integer"}, "text": {"maxLength": 10**9}}},
        {"properties": {f"tool_{number}": A for number in range(200)}},
        {"enum": ["x" * 10] * 4_000, "description": "how it is used " * 400},
    ],
)
def test_a_schema_of_an_ordinary_size_is_tried(schema: dict[str, Any]) -> None:
    assert too_much(schema) is None
    held(schema)


# --- as the compiler takes it ---


@pytest.fixture(scope="module")
def takes() -> Callable[[Any, str], bool]:
    """Whether a text can be written under a schema as it is held. The tokens are the bytes."""
    xgrammar = pytest.importorskip("xgrammar", reason="the engine is not installed: make setup")
    tokens = [bytes((number,)) for number in range(256)]
    known = xgrammar.TokenizerInfo([*tokens, b"<end>"], stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(known, max_threads=1)

    def takes(schema: Any, text: str) -> bool:
        form = {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}
        tag = json.dumps({"type": "structural_tag", "format": form})
        matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(tag))
        return bool(matcher.accept_string(text) and matcher.accept_token(256))

    return takes


Takes = Callable[[Any, str], bool]
DEEP = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["v", "next"],
}


@pytest.mark.vllm
@pytest.mark.parametrize("schema", ROOTS)
def test_no_call_is_anything_but_an_object(takes: Takes, schema: dict[str, Any]) -> None:
    given = held(schema, an_object=True).schema
    for wrong in ('"hello"', "5", "null", "[]", "true"):
        assert not takes(given, wrong)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (DEEP, {"v": 1, "next": {"v": 2, "next": None}}),
        ({"type": "object"}, {"a": [1, {"b": None}]}),
        ({"type": "object", "minProperties": 1, "properties": AB}, {"b": 1}),
        ({"type": "object", "properties": {"a": A}, "anyOf": [{"required": ["a"]}]},
         {"a": {"x": 'a "quoted"\ntext'}}),
        ({"allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "null"}}}],
          "$defs": {"A": A}}, {"x": "1", "b": None}),
        ({"type": "string", "pattern": "^https?://"}, "https://example.org/a"),
        ({"type": "string", "pattern": r"^[\w.\-/+]{1,9}(?:\?a|,b)?$"}, "a/b.c-d?a"),
        ({"type": "string", "maxLength": 20, "minLength": 3}, 'a "b"\n'),
        ({"type": "array", "minItems": 2, "maxItems": 3}, [1, "a"]),
        ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2}, [None, 3]),
        ({"type": "object", "patternProperties": {"^x-": {"type": "integer"}},
          "additionalProperties": False}, {"x-foo": 1}),
        ({"type": "object", "propertyNames": {"pattern": "^[a-z]"}}, {"foo": 1}),
        ({"type": "string", "format": "uri"}, "https://example.org:80/a?b=c#d"),
    ],
)  # fmt: skip
def test_nobody_is_forced_away_from_what_fits(takes: Takes, schema: Any, value: Any) -> None:
    jsonschema.validate(value, schema)
    assert takes(held(schema).schema, json.dumps(value))


@pytest.mark.vllm
@pytest.mark.parametrize(
    "string",
    [
        {"type": "string", "maxLength": 9},
        {"type": "string", "minLength": 1},
        {"type": "string", "pattern": "^.*$"},
        {"type": "string", "pattern": r"^[\s\S]{1,5}$"},
        {"type": "string", "pattern": "^[a-z]*$"},
        {"type": "string", "format": "email"},
        *({"type": "string", "format": form} for form in ("uri", "hostname", "date-time")),
    ],
)
def test_no_string_holds_what_json_does_not_allow(takes: Takes, string: dict[str, str]) -> None:
    for raw in ("\n", "\x0f", "\x00", '"', "\\q"):
        for text in (raw, f"a{raw}", f'\\"{raw}'):
            assert not takes(held(string).schema, f'"{text}"')
