"""What of a JSON Schema an answer is held to: the schema that the grammar is made of.

The grammar compiler takes some keywords too literally and passes over others, so a client's schema
is restated in those that it takes as they are meant. What this leaves out (`not`, `if`,
`dependentRequired`, `uniqueItems`, `contains`, and long or one-sided lengths) the model reads in
its prompt and is not held to. What an answer is held to is otherwise never wider than the client's
schema. Pure.
"""

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 32
"""Characters of the longest string whose length is held. Each position of a counted string costs
the compiler a walk over the whole vocabulary, and such a string takes no escaped character, so no
quote and no line break: bearable in a short name, harmful in a text."""

_MOST_SPREAD = 100_000
"""Characters that alternatives may become, each with what stands beside them."""

_LENGTHS = frozenset(("minLength", "maxLength"))
_ALTERNATIVES = ("anyOf", "oneOf")
_LITERAL = ("const", "enum")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DEFINITIONS = ("$defs", "definitions")
# What tells the model about a value and holds it to nothing.
_SILENT = frozenset(
    ("title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment")
)


def held(schema: Any) -> Any:
    """The schema as the grammar takes it; a schema may also be true or false."""
    stated = _stated(schema)
    return _with_required(stated) if isinstance(stated, dict) else stated


def _stated(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    stated = _joined(schema)
    longest = stated.get("maxLength")
    unsaid = _SILENT if isinstance(longest, int) and longest <= LONGEST else _SILENT | _LENGTHS
    stated = {key: _inside(key, value) for key, value in stated.items() if key not in unsaid}
    for key in _ALTERNATIVES:
        if isinstance(stated.get(key), list):
            return _spread(stated, key)
    return stated


def _inside(key: str, value: Any) -> Any:
    """The same for every schema behind a keyword."""
    if key in _LITERAL:
        return value
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: held(each) for name, each in value.items()}
    if key in _ALTERNATIVES and isinstance(value, list):
        return [_stated(each) for each in value]
    if isinstance(value, list):
        return [held(each) for each in value]
    return held(value)


def _joined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """With the parts of `allOf` stated in the schema itself, unless one is a reference."""
    parts = schema.get("allOf")
    joined = dict(schema)
    if isinstance(parts, list) and all(isinstance(p, Mapping) and "$ref" not in p for p in parts):
        del joined["allOf"]
        for part in parts:
            joined = _both(joined, _joined(part))
    return joined


def _spread(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Each alternative with all that stands beside them, which the compiler would pass over; where
    that would make too much of it, without the alternatives."""
    defined = {name: schema[name] for name in _DEFINITIONS if name in schema}
    rest = {name: value for name, value in schema.items() if name not in (key, *defined)}
    branches = schema[key]
    if rest:
        if len(json.dumps(rest)) * len(branches) > _MOST_SPREAD:
            return {**rest, **defined}
        branches = [_both(rest, each) if isinstance(each, dict) else each for each in branches]
    # What an alternative lacks it may have been given only now.
    branches = [_with_required(each) if isinstance(each, dict) else each for each in branches]
    return {key: branches, **defined}


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One schema that says what both say; where they speak of the same thing, the other's word."""
    both = {**one, **other}
    properties = [each["properties"] for each in (one, other) if "properties" in each]
    if len(properties) == 2 and all(isinstance(each, Mapping) for each in properties):
        both["properties"] = {**properties[0], **properties[1]}
    required = [each["required"] for each in (one, other) if "required" in each]
    if len(required) == 2 and all(isinstance(each, list) for each in required):
        both["required"] = list(dict.fromkeys([*required[0], *required[1]]))
    return both


def _with_required(schema: dict[str, Any]) -> dict[str, Any]:
    """With the properties that are required and nowhere described, which could not be written."""
    required = schema.get("required")
    properties = schema.get("properties", {})
    if not isinstance(required, list) or not isinstance(properties, Mapping):
        return schema
    others = schema.get("additionalProperties", True)
    missing = {name: others for name in required if name not in properties and others is not False}
    return {**schema, "properties": {**properties, **missing}} if missing else schema
