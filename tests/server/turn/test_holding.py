"""A schema is restated for the grammar: never wider where it is held, and of bounded size."""

import json
from typing import Any

import pytest

from senryu.server.turn.holding import LONGEST, held

AB = {"a": {"type": "string"}, "b": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "restated"),
    [
        (True, True),
        ({"type": "object"}, {"type": "object"}),
        ({"title": "T", "description": "what", "default": 3, "type": "integer"},
         {"type": "integer"}),
        # Only short lengths, and only between two ends.
        ({"type": "string", "minLength": 1}, {"type": "string"}),
        ({"type": "string", "maxLength": LONGEST + 1, "minLength": 2}, {"type": "string"}),
        ({"type": "string", "maxLength": LONGEST, "minLength": 2},
         {"type": "string", "maxLength": LONGEST, "minLength": 2}),
        # Names and values that look like keywords are none.
        ({"properties": {"minLength": {"type": "integer", "title": "T"}}},
         {"properties": {"minLength": {"type": "integer"}}}),
        ({"const": {"title": "T", "minLength": 9}}, {"const": {"title": "T", "minLength": 9}}),
        # What stands beside alternatives is said in each.
        ({"type": "object", "properties": AB, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
         {"anyOf": [{"type": "object", "properties": AB, "required": ["a"]},
                    {"type": "object", "properties": AB, "required": ["b"]}]}),
        ({"description": "d", "anyOf": [{"type": "string"}, {"type": "null"}]},
         {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "object", "oneOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "object"}}},
         {"oneOf": [{"type": "object", "$ref": "#/$defs/x"}], "$defs": {"x": {"type": "object"}}}),
        # Parts that all hold are one schema; a reference stays where it is.
        ({"type": "object", "properties": {"a": {}}, "required": ["a"],
          "allOf": [{"properties": {"b": {}}, "required": ["b"]}]},
         {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}),
        ({"allOf": [{"$ref": "#/$defs/x"}]}, {"allOf": [{"$ref": "#/$defs/x"}]}),
        # A property that is required and described nowhere can be written.
        ({"type": "object", "required": ["a"]},
         {"type": "object", "required": ["a"], "properties": {"a": True}}),
        ({"required": ["a"], "additionalProperties": {"type": "null"}},
         {"required": ["a"], "additionalProperties": {"type": "null"},
          "properties": {"a": {"type": "null"}}}),
    ],
)  # fmt: skip
def test_a_schema_is_restated(schema: Any, restated: Any) -> None:
    assert held(schema) == restated


def test_the_clients_schema_is_not_changed() -> None:
    schema = {"properties": AB, "anyOf": [{"required": ["a"]}], "title": "T"}
    before = json.dumps(schema)
    held(schema)
    assert json.dumps(schema) == before


def test_alternatives_in_alternatives_do_not_multiply_without_end() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        schema = {"properties": {"a": schema}, "anyOf": [{"required": ["a"]}] * 10}
    assert len(json.dumps(held(schema))) < 1_000_000


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": 5, "allOf": "x", "properties": [1], "required": "a", "maxLength": "2"},
        {"allOf": [True], "anyOf": [True, False, 3], "items": [{"title": "T"}, 4]},
        {"properties": {"a": True}, "required": [1], "$defs": 3, "const": None},
    ],
)
def test_what_is_no_schema_is_passed_on_without_a_fault(schema: dict[str, Any]) -> None:
    json.dumps(held(schema))
