"""Schemas are judged within bounds, and in strict reading held to the hosted service's subset."""

import time
from typing import Any

import pytest

from senryu.server.conversation.schema_subset import Subset
from senryu.server.conversation.schemas import check_schema
from senryu.server.wire.errors import InvalidRequest


def refusal(schema: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_schema(schema, "here", **more)
    return caught.value.message


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def properties(**each: Any) -> dict[str, Any]:
    return {"type": "object", "properties": each}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"$schema": "x", "type": "object", "additionalProperties": {}},
        properties(a={"$ref": "#/$defs/n"}) | {"$defs": {"n": {"$ref": "#/$defs/n"}}},
        properties(**{"a/~%": {"anyOf": [{}]}, "b": {"$ref": "#/properties/a~1~0%25/anyOf/0"}}),
        properties(a={"type": "string", "pattern": r"^(?=a)\w+$", "format": "a sort of ours"}),
        properties(a={"type": "array", "items": [{"type": "string"}]})
        | {"$schema": "https://x/draft-07/schema#"},
        nested(50),
    ],
)
def test_a_good_schema_passes(schema: dict[str, Any]) -> None:
    check_schema(schema, "here")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "required": "a"},
        properties(a={"type": "strin"}),
        properties(a={"$ref": "#/$defs/none"}),
        properties(a={"anyOf": [{"$ref": "#/anyOf/1"}]}) | {"anyOf": [{}]},
    ],
)
def test_a_bad_schema_is_refused_with_its_place(schema: dict[str, Any]) -> None:
    for _ in range(2):  # the verdict is remembered
        assert refusal(schema).startswith("here: JSON schema is invalid: ")


@pytest.mark.parametrize(
    "address", ["https://x.example/s", "file:///etc/passwd", "other.json", "//x.example/s#/a"]
)
def test_nothing_is_fetched_for_a_reference(address: str) -> None:
    assert "an external $ref is not fetched" in refusal(properties(a={"$ref": address}))


@pytest.mark.parametrize(
    "schema",
    [
        properties(a={"pattern": "((a+)+)+b(c|d|e){0,5000}"}),
        properties(a={"pattern": "(((((x{1,100}){1,100}){1,100}){1,100}){1,100})"}),
        properties(**{f"p{n}": {"pattern": rf".{{1,400}}{n}"} for n in range(5000)}),
        {"patternProperties": {rf"\p{{L}}{{1,400}}{n}": {} for n in range(5000)}},
    ],
)
def test_a_hostile_pattern_costs_nothing(schema: dict[str, Any]) -> None:
    begun = time.perf_counter()
    check_schema(schema, "here", examples=[{"p1": "a" * 5000}], examples_location="ex")
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    "schema",
    [
        properties(p={"not": {"pattern": "^/"}}),
        properties(p={"oneOf": [{"pattern": "^x"}, {"pattern": "^y"}]}),
        properties(p={"if": {"pattern": "^a"}, "then": {"maxLength": 0}}),
        {"patternProperties": {"^p": {}}, "additionalProperties": False},
        {"$defs": {"n": {"type": "string"}}} | properties(p={"$ref": "#/$defs/n"}),
        properties(p={"$schema": "https://x.example/s"}),
    ],
)
def test_an_example_is_not_judged_by_what_is_not_run(schema: dict[str, Any]) -> None:
    check_schema(schema, "here", examples=[{"p": "x"}], examples_location="ex")


def test_an_example_has_to_fit() -> None:
    schema = properties(a={"enum": [1, 2]}) | {"$schema": "https://x.example/s"}
    check_schema(schema, "here", examples=[{"a": 1}, {}], examples_location="ex")
    words = refusal(schema, examples=[{"a": 1}, {"a": 3}], examples_location="ex")
    assert words == ("ex.1: the example does not fit the input_schema: 3 is not one of 1 or 2")


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = properties(**{"$ref": {"type": "string"}, "patternProperties": {"type": "object"}})
    check_schema(schema | {"default": {"$ref": "other.json"}}, "here")


def doubled(step: str, **more: Any) -> dict[str, Any]:
    """Each of the sixty definitions refers twice to the next."""
    steps: dict[str, Any] = {
        f"n{n}": {"anyOf": [{step: f"#/$defs/n{n + 1}"}] * 2, **more} for n in range(60)
    }
    return properties(a={step: "#/$defs/n0"}) | {"$defs": steps | {"n60": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        (doubled("$ref"), 1),
        (doubled("$dynamicRef"), 1),
        (doubled("$ref", unevaluatedProperties=False), 1),
        (doubled("$ref", unevaluatedItems=False, allOf=[{"$ref": "#/$defs/n60"}]), 1),
        (properties(a={"items": {"enum": [[n] for n in range(600)]}}), [[599]] * 1500),
        (properties(**{f"p{n}": {"$schema": f"x{n}"} for n in range(500)}), 1),
    ],
)
def test_no_schema_takes_long_to_judge(schema: dict[str, Any], example: Any) -> None:
    begun = time.perf_counter()
    check_schema(schema, "here", examples=[{"a": example}], examples_location="ex")
    assert time.perf_counter() - begun < 0.1


# --- the subset of strict reading --------------------------------------------------------------


def closed(**each: Any) -> dict[str, Any]:
    return properties(**each) | {"additionalProperties": False, "required": list(each)}


def outside(*schemas: dict[str, Any]) -> str:
    *within, last = schemas
    subset = Subset()
    for schema in within:
        subset.check_tool(schema, "here")
    with pytest.raises(InvalidRequest) as caught:
        subset.check_tool(last, "here")
    return caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        closed(),
        closed(
            a={"type": ["string", "null"], "enum": ["x", None], "default": "x"},
            b={"type": "array", "items": closed(), "minItems": 1},
            c={"type": "string", "format": "date-time", "title": "t", "description": "d"},
            d={"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/n"}]},
            e={"allOf": [closed()]},
            f={"type": "string", "pattern": "^[a-z]{1,5}$"},
        )
        | {"$defs": {"n": {"type": "null"}, "m": {"$ref": "#/$defs/n"}}},
    ],
)
def test_what_the_hosted_service_takes_passes(schema: dict[str, Any]) -> None:
    Subset().check_tool(schema, "here")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            properties(),
            "For 'object' type, 'additionalProperties' must be explicitly set to false",
        ),
        (
            properties() | {"additionalProperties": True},
            "For 'object' type, 'additionalProperties: true' is not supported. Please set "
            "'additionalProperties' to false",
        ),
        (closed(a=properties()), "For 'object' type, 'additionalProperties' must be explicitly"),
        (
            closed(a={"type": "integer", "minimum": 1}),
            "For 'integer' type, property 'minimum' is not supported",
        ),
        (
            closed(a={"type": "string", "maxLength": 1}),
            "For 'string' type, property 'maxLength' is not supported",
        ),
        (closed(a={"oneOf": []}), "Property 'oneOf' is not supported"),
        (closed(a={"type": "array", "minItems": 2}), "For 'array' type, 'minItems' values other"),
        (closed(a={"enum": [{}]}), "Complex values in 'enum' are not supported"),
        (closed(a={"type": "string", "format": "color"}), "For 'string' type, 'format: color'"),
        (
            closed(a={"allOf": [{"$ref": "#/$defs/a"}]}) | {"$defs": {"a": {}}},
            "'allOf' with '$ref' is not supported",
        ),
        (closed(a={"$ref": "other"}), "External '$ref' is not supported"),
        (closed(a={"$ref": "#"}), "Recursive schemas are not supported"),
        (
            closed(a={"$ref": "#/$defs/a"})
            | {"$defs": {"a": closed(b={"$ref": "#/$defs/b"}), "b": {"$ref": "#/$defs/a"}}},
            "Recursive schemas are not supported",
        ),
        (closed(a={"pattern": "(?=a)"}), "Unsupported regex feature in pattern field: lookaround"),
        (closed(a={"pattern": r"(a)\1"}), "Unsupported regex feature in pattern field: back"),
        (closed(a={"pattern": r"\ba"}), "Unsupported regex feature in pattern field: word"),
        (closed(a={"pattern": "a{1,5000}"}), "Unsupported regex feature in pattern field: large"),
        (
            closed(**{f"p{n}": {} for n in range(25)}) | {"required": []},
            "Schema is too complex for compilation.",
        ),
        (
            closed(**{f"p{n}": {"type": ["string", "null"]} for n in range(17)}),
            "Schema is too complex for compilation.",
        ),
    ],
)
def test_what_the_hosted_service_refuses_is_named(schema: dict[str, Any], words: str) -> None:
    assert outside(schema).startswith(f"here: {words}")


def test_the_limits_hold_for_a_request_as_a_whole() -> None:
    assert outside(*[closed()] * 21).startswith("tools: Too many strict tools")
    loose = closed(**{f"p{n}": {} for n in range(13)}) | {"required": []}
    assert "too complex" in outside(loose, loose)


def test_only_strict_tools_of_strict_reading_are_held_to_it(read: Any) -> None:
    tool = {"name": "ls", "input_schema": properties(a={"minimum": 1})}
    assert read(tools=[tool | {"strict": True}])
    assert read(on={"strict": True}, tools=[tool])
    assert read.refusal(on={"strict": True}, tools=[tool | {"strict": True}]).startswith(
        "tools.0.custom.input_schema: For 'object' type, 'additionalProperties' must be"
    )
    form = {"format": {"type": "json_schema", "schema": tool["input_schema"]}}
    assert read(output_config=form)
    assert read.refusal(on={"strict": True}, output_config=form) == (
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly "
        "set to false"
    )
