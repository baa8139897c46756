"""The part of JSON Schema that the hosted service holds answers to (contract 1.8.3).

Only asked in strict mode: the engine here holds answers to more than that.
"""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from senryu.server.wire.errors import InvalidRequest

from .schemas import subschemas

_STRICT_TOOLS = 20
_OPTIONAL_PROPERTIES = 24
_UNION_PROPERTIES = 16

_SUPPORTED = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "anyOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
    "default",
    "format",
    "pattern",
    "minItems",
    "title",
    "description",
    "$schema",
    "$id",
    "$comment",
    "examples",
}
_FORMATS = {
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "uri",
    "ipv4",
    "ipv6",
    "uuid",
}
# What the pattern language of the hosted service lacks, and how its error calls it.
_REGEX_FEATURES = (
    (re.compile(r"\(\?<?[=!]"), "lookaround"),
    (re.compile(r"\\[1-9]|\\k<"), "backreference"),
    (re.compile(r"\\[bB]"), "word boundary"),
    (re.compile(r"\{(\d{4}|\d{0,3},\d{4})"), "large repetition"),
)


class Subset:
    """Judges the schemas of one request, whose limits hold for all of them together."""

    def __init__(self) -> None:
        self._tools = self._optional = self._unions = 0

    def check_tool(self, schema: Mapping[str, Any], location: str) -> None:
        """A tool that is `strict`. Raises InvalidRequest."""
        self._tools += 1
        if self._tools > _STRICT_TOOLS:
            raise InvalidRequest(
                f"tools: Too many strict tools: at most {_STRICT_TOOLS} tools may have strict: true"
            )
        self.check(schema, location)

    def check(self, schema: Mapping[str, Any], location: str) -> None:
        """Raises InvalidRequest for what the hosted service would refuse."""
        _refuse_recursion(schema, location)
        waiting = [schema]
        while waiting:
            node = waiting.pop()
            for failure in _failures(node):
                raise InvalidRequest(f"{location}: {failure}")
            self._count(node)
            waiting += [inner for _, inner in subschemas(node)]
        if self._optional > _OPTIONAL_PROPERTIES or self._unions > _UNION_PROPERTIES:
            raise InvalidRequest(
                f"{location}: Schema is too complex for compilation. At most "
                f"{_OPTIONAL_PROPERTIES} optional and {_UNION_PROPERTIES} union-typed properties "
                "may stand in one request"
            )

    def _count(self, node: Mapping[str, Any]) -> None:
        properties = node.get("properties")
        if not isinstance(properties, dict):
            return
        required = {name for name in _listed(node.get("required")) if isinstance(name, str)}
        self._optional += sum(name not in required for name in properties)
        self._unions += sum(
            isinstance(each, dict) and ("anyOf" in each or isinstance(each.get("type"), list))
            for each in properties.values()
        )


def _failures(node: Mapping[str, Any]) -> Iterator[str]:
    """What is not supported in a schema itself, its inner schemas aside."""
    kind = node.get("type", [])
    kinds = kind if isinstance(kind, list) else [kind]
    if "object" in kinds or "properties" in node:
        allowed = node.get("additionalProperties")
        if "additionalProperties" not in node:
            yield "For 'object' type, 'additionalProperties' must be explicitly set to false"
        elif allowed is not False:
            shown = "true" if allowed is True else "object"
            yield (
                f"For 'object' type, 'additionalProperties: {shown}' is not supported. Please set "
                "'additionalProperties' to false"
            )
    about = f"For '{kinds[0]}' type, property" if kinds else "Property"
    for key in node:
        if key not in _SUPPORTED:
            yield f"{about} '{key}' is not supported"
    if any(isinstance(value, dict | list) for value in _listed(node.get("enum"))):
        yield "Complex values in 'enum' are not supported"
    if node.get("minItems", 0) not in (0, 1):
        yield "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    if "format" in node and str(node["format"]) not in _FORMATS:
        yield f"For 'string' type, 'format: {node['format']}' is not supported"
    for each in _listed(node.get("allOf")):
        if isinstance(each, dict) and "$ref" in each:
            yield "'allOf' with '$ref' is not supported"
    if not str(node.get("$ref", "#")).startswith("#"):
        yield "External '$ref' is not supported"
    for feature, name in _REGEX_FEATURES:
        if feature.search(str(node.get("pattern", ""))):
            yield f"Unsupported regex feature in pattern field: {name}"


def _refuse_recursion(schema: Mapping[str, Any], location: str) -> None:
    """Raises InvalidRequest when a definition leads back to itself."""
    leads_to = {
        f"#/{group}/{name}": set(_references(inner))
        for group in ("$defs", "definitions")
        for name, inner in _mapping(schema.get(group)).items()
    }
    try:
        TopologicalSorter(leads_to).prepare()
        in_circles = "#" in _references(schema)
    except CycleError:
        in_circles = True
    if in_circles:
        raise InvalidRequest(f"{location}: Recursive schemas are not supported")


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _listed(value: Any) -> list[Any]:
    """Schemas behind keywords that their draft does not know were judged by nobody."""
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
