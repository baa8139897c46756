"""JSON Schemas as clients send them: whether one is valid, and whether its examples fit it.

A schema is a stranger's program, so nothing here runs it: it is read as a value that has to fit its
draft, and its references are followed in it and nowhere else. Only examples have to be judged by
the schema itself, and only where that takes no more steps than there are pairs of their parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from senryu.server.wire.errors import InvalidRequest

_CURRENT: type[jsonschema_rs.Validator] = jsonschema_rs.Draft202012Validator
# One whose schema names an older draft is judged by that; all others by 2020-12.
_OLD: dict[str, type[jsonschema_rs.Validator]] = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "2019-09": jsonschema_rs.Draft201909Validator,
}
# What a schema of each draft has to fit.
_DRAFTS = {
    judge: judge({"$ref": address})
    for judge, address in (
        (_CURRENT, "https://json-schema.org/draft/2020-12/schema"),
        (_OLD["2019-09"], "https://json-schema.org/draft/2019-09/schema"),
        (_OLD["draft-07"], "http://json-schema.org/draft-07/schema"),
        (_OLD["draft-06"], "http://json-schema.org/draft-06/schema"),
        (_OLD["draft-04"], "http://json-schema.org/draft-04/schema"),
    )
}

# With these a short schema can take very long to build or to judge by. An example is a hint and no
# more: beside them, and where its size times the schema's is more than this, it goes unjudged.
_COSTLY = (
    "$id",
    "$ref",
    "$schema",
    "$dynamicRef",
    "$recursiveRef",
    "pattern",
    "patternProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_MOST_PAIRS = 4_000_000

# Where schemas stand inside a schema: behind a key, in a list behind one, in a mapping behind one.
_INSIDE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_MAPPINGS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def check_schema(
    schema: Mapping[str, Any],
    location: str,
    *,
    examples: Sequence[Mapping[str, Any]] = (),
    examples_location: str = "",
) -> None:
    """Raises InvalidRequest for a schema that is none, and for an example that does not fit it."""
    named = schema.get("$schema")
    judge = _CURRENT
    for draft, older in _OLD.items():
        if isinstance(named, str) and draft in named:
            judge = older
    try:
        _DRAFTS[judge].validate(schema)
        _check_references(schema)
    except ValueError as error:
        raise InvalidRequest(f"{location}: JSON schema is invalid: {_short(error)}") from None
    unnamed = {key: value for key, value in schema.items() if key != "$schema"}
    if not examples or _are_costly(unnamed, examples):
        return
    try:
        fitting = judge(unnamed, validate_formats=False)
    except ValueError:  # the builder wants more of it than its draft does
        return
    for index, example in enumerate(examples):
        try:
            fitting.validate(example)
        except jsonschema_rs.ValidationError as error:
            raise InvalidRequest(
                f"{examples_location}.{index}: the example does not fit the input_schema: "
                f"{_short(error)}"
            ) from None


def _short(error: Exception) -> str:
    text: str = getattr(error, "message", None) or str(error)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _check_references(schema: Mapping[str, Any]) -> None:
    """Raises ValueError for one that leads nowhere, or out of the schema: nothing is fetched."""
    references = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if "$id" in node:
            return  # what they are relative to is then anywhere
        if isinstance(node.get("$ref"), str):
            references.add(node["$ref"])
        waiting += [inner for _, inner in subschemas(node)]
    for reference in references:
        if not reference.startswith("#"):
            raise ValueError("an external $ref is not fetched; put what it names into $defs")
        if not _leads_somewhere(reference, schema):
            raise ValueError(f"there is nothing at the $ref {reference}")


def _leads_somewhere(reference: str, schema: Any) -> bool:
    """Whether a JSON pointer (RFC 6901) does; the name of an anchor may be anywhere."""
    root, *parts = unquote(reference[1:]).split("/")
    node = schema
    for part in parts if not root else ():
        try:
            name = part.replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return True


def _are_costly(schema: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> bool:
    text = str(schema)
    return len(text) * len(str(examples)) > _MOST_PAIRS or any(
        f"'{keyword}'" in text for keyword in _COSTLY
    )


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas directly inside one, and where they stand."""
    for key, value in schema.items():
        if key in _INSIDE and isinstance(value, dict):
            yield key, value
        elif key in _LISTS and isinstance(value, list):
            yield from ((f"{key}.{n}", each) for n, each in enumerate(value) if _is_schema(each))
        elif key in _MAPPINGS and isinstance(value, dict):
            yield from ((f"{key}.{name}", each) for name, each in value.items() if _is_schema(each))


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict)


def required_first(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema with each object's properties in the order in which an answer gives them:
    the required ones first, then the others (contract 1.8.2)."""
    ordered: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _INSIDE and isinstance(value, dict):
            ordered[key] = required_first(value)
        elif key in _LISTS and isinstance(value, list):
            ordered[key] = [required_first(each) if _is_schema(each) else each for each in value]
        elif key in _MAPPINGS and isinstance(value, dict):
            ordered[key] = {
                name: required_first(each) if _is_schema(each) else each
                for name, each in value.items()
            }
        else:
            ordered[key] = value
    properties, required = ordered.get("properties"), schema.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        wanted = {name for name in required if isinstance(name, str)}
        ordered["properties"] = {
            name: properties[name]
            for name in sorted(properties, key=lambda name: name not in wanted)  # sort is stable
        }
    return ordered
