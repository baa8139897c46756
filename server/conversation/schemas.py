"""JSON Schemas as clients send them: whether one is valid, and what of it the hosted service takes.

A schema is a stranger's program. What judging one may cost is bounded: its patterns are not
compiled, nothing is fetched for a reference, and examples are tried on it only where the work has
an end. Verdicts are kept by the schema's bytes, for clients send the same tools with every request.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from senryu.server.wire.errors import InvalidRequest

# One whose schema names an older draft is judged by that; all others by 2020-12.
_OLD_DRAFTS: dict[str, type[jsonschema_rs.Validator]] = {
    "draft-04": jsonschema_rs.Draft4Validator,
    "draft-06": jsonschema_rs.Draft6Validator,
    "draft-07": jsonschema_rs.Draft7Validator,
    "2019-09": jsonschema_rs.Draft201909Validator,
}

# References multiply the work at each level of an example; without them it is at most the product
# of the two sizes. What is beyond these goes unjudged: an example is a hint and no more.
_REFERENCES_TIMES_DEPTH = 36
_SIZES = 10**8

_KEPT_BYTES = 65_536

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
    try:
        packed = orjson.dumps(schema)
        tried = orjson.dumps(list(examples)) if examples else b""
    except orjson.JSONEncodeError:
        deep = "JSON schema is invalid: it is nested too deeply"
        raise InvalidRequest(f"{location}: {deep}") from None
    short = len(packed) + len(tried) <= _KEPT_BYTES
    failure = _failure(packed, tried) if short else _failure.__wrapped__(packed, tried)
    if failure is None:
        return
    index, text = failure
    if index is None:
        raise InvalidRequest(f"{location}: JSON schema is invalid: {text}")
    raise InvalidRequest(
        f"{examples_location}.{index}: the example does not fit the input_schema: {text}"
    )


@lru_cache(maxsize=1024)
def _failure(packed: bytes, tried: bytes) -> tuple[int | None, str] | None:
    """What is wrong with a schema, or with the example at an index."""
    schema = _without_patterns(orjson.loads(packed))
    named = schema.get("$schema")
    judge: type[jsonschema_rs.Validator] = jsonschema_rs.Draft202012Validator
    for draft, older in _OLD_DRAFTS.items():
        if isinstance(named, str) and draft in named:
            judge = older
    try:
        validator = judge(schema, retriever=_not_fetched, validate_formats=False)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        return None, _first_line(error)
    examples = orjson.loads(tried) if tried else []
    references = packed.count(b'Ref"') + packed.count(b'"$ref"')
    for index, example in enumerate(examples):
        if references * _depth(example) > _REFERENCES_TIMES_DEPTH:
            continue
        if len(packed) * len(tried) > _SIZES:
            continue
        for failure in validator.iter_errors(example):
            return index, _first_line(failure)
    return None


def _not_fetched(address: str) -> Any:
    raise ValueError(address)


def _first_line(error: Exception) -> str:
    text: str = getattr(error, "message", None) or str(error)
    text, _, _ = text.partition("\n")
    if "retrieving it failed" in text:
        return "an external $ref is not fetched; put what it names into $defs"
    return text if len(text) <= 300 else f"{text[:300]}…"


def _depth(value: Any) -> int:
    """How deep a value is nested; orjson read it, so not deeper than the interpreter bears."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 1


def _without_patterns(value: Any) -> Any:
    """A schema that is looser by its patterns: whether the engine can hold an answer to those is
    tried where a trial can be ended, and here a thousand of them would stop everybody."""
    if isinstance(value, list):
        return [_without_patterns(each) for each in value]
    if not isinstance(value, dict):
        return value
    loose = {
        key: _without_patterns(each)
        for key, each in value.items()
        if not (key == "pattern" and isinstance(each, str))
    }
    if isinstance(loose.pop("patternProperties", None), dict):
        # These are about the properties that no pattern takes.
        loose.pop("additionalProperties", None)
        loose.pop("unevaluatedProperties", None)
    return loose


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
