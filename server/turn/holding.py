"""What of a JSON Schema an answer is held to: the schema that the grammar is made of.

The grammar compiler takes some keywords too literally and passes over others, so a client's schema
is restated in those that it takes as they are meant:

- `type`, `enum`, `const`, `anyOf`, and `oneOf` as if it were `anyOf`;
- `properties`, `required`, `additionalProperties`, `minProperties`, `maxProperties`;
- `items`, `prefixItems`, `minItems`, `maxItems`;
- `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`;
- `pattern` where it is of a simple kind (`patterns`), and the formats that are listed below;
- `allOf`, and alternatives with something beside them, where all that they say can be said in one
  schema without a contradiction; and `$ref` into the same schema, with nothing beside it.

All else the model reads in its prompt and is not held to, and the client is told so. Lengths are
among it: a string whose characters are counted cannot hold an escaped one, and each count costs
the compiler a walk over the whole vocabulary. Where nothing is left out, what an answer is held to
is never wider than the client's schema. Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from .patterns import holdable

_LARGEST = 100_000  # characters of one schema
_DEEPEST = 64  # objects and arrays in one another: vLLM's own limit
_MOST_VALUES = 5_000  # in one enum, or properties of one object
_MOST_REPEATS = 100_000
_REPEATS = ("minItems", "maxItems", "minProperties", "maxProperties")

_MOST_SPREAD = 200_000
"""Characters that may be said again in another place, all together."""
_SAID_AGAIN = 1_000  # what each time costs at the least
_REMEMBERED = 30_000  # characters of a schema whose restatement is kept
_HOPS = 8

_DEFINITIONS = frozenset(("$defs", "definitions"))
# What tells the model about a value and holds it to nothing.
_SILENT = frozenset(
    ("title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment")
)
_UNHELD = frozenset(
    (
        *("not", "if", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames"),
        *("patternProperties", "unevaluatedProperties", "unevaluatedItems", "uniqueItems"),
        *("contains", "minLength", "maxLength", "multipleOf", "$dynamicRef", "$recursiveRef"),
    )
)
_FORMATS = frozenset(
    ("date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri")
)
_NAMES = frozenset(("properties", "additionalProperties", "patternProperties"))
_ITEMS = frozenset(("items", "prefixItems", "additionalItems"))
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OF_TYPE = {
    "object": _NAMES | {"required", "minProperties", "maxProperties", "propertyNames"},
    "array": _ITEMS | {"minItems", "maxItems"},
    "string": frozenset(("pattern", "format", "minLength", "maxLength")),
    "number": frozenset((*_NUMBER, "multipleOf")),
}


@dataclass(frozen=True, slots=True)
class Held:
    """What an answer is held to. It may be shared: not to be changed."""

    schema: Any
    whole: bool
    """Whether that is all that the client's schema says."""


def too_much(schema: Mapping[str, Any]) -> str | None:
    """What of a schema is beyond measure, as the end of a sentence; None when nothing is. To be
    asked before anything else is done with it."""
    level: list[Any] = [schema]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for key in _REPEATS:
                    bound = node.get(key)
                    if isinstance(bound, int | float) and bound > _MOST_REPEATS:
                        return f"{key} is more than {_MOST_REPEATS:,}"
            inside = list(node.values()) if isinstance(node, Mapping) else node
            if len(inside) > _MOST_VALUES:
                return f"it lists more than {_MOST_VALUES:,} things in one place"
            below += [each for each in inside if isinstance(each, dict | list)]
        if not below:
            size = len(json.dumps(schema))
            return f"it is longer than {_LARGEST:,} characters" if size > _LARGEST else None
        level = below
    return f"it is nested more than {_DEEPEST} levels deep"


def held(schema: Any, *, an_object: bool = False) -> Held:
    """The schema as the grammar takes it; with `an_object` it allows nothing but objects."""
    text = json.dumps(schema)
    if len(text) <= _REMEMBERED:
        return _remembered(text, an_object)
    return _Restating(schema).done(an_object)


@lru_cache(maxsize=512)
def _remembered(text: str, an_object: bool) -> Held:
    return _Restating(json.loads(text)).done(an_object)


class _Restating:
    """One schema as it is being restated."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._whole = True
        self._room = _MOST_SPREAD
        self._names: dict[str, str] = {}
        """Under which name each place that is referred to is defined."""
        self._waiting: list[tuple[str, Any]] = []
        self._defined: dict[str, Any] = {}

    def done(self, an_object: bool) -> Held:
        stated = self._stated(self._root, 0)
        while self._waiting:
            name, target = self._waiting.pop()
            self._defined[name] = self._stated(target, 0)
        if an_object and not self._is_object(stated, hops=3):
            return Held({"type": "object"}, whole=False)
        if self._defined and isinstance(stated, dict):
            stated = {**stated, "$defs": self._defined}
        return Held(stated, self._whole)

    def _is_object(self, stated: Any, hops: int) -> bool:
        if not isinstance(stated, dict) or not hops:
            return False
        if "$ref" in stated:
            name = stated["$ref"].rpartition("/")[2]
            return self._is_object(self._defined[name], hops - 1)
        if "anyOf" in stated:
            return all(self._is_object(each, hops - 1) for each in stated["anyOf"])
        return stated.get("type") == "object"

    def _left_out(self) -> None:
        self._whole = False

    def _stated(self, node: Any, deep: int) -> Any:
        if not isinstance(node, Mapping):
            return node if isinstance(node, bool) else True
        if deep > _DEEPEST:
            return self._only_type(node)
        node = {key: value for key, value in node.items() if key not in _SILENT}
        if "$ref" in node:
            return self._reference(node)
        if "allOf" in node:
            joined = self._joined(node, deep)
            if not isinstance(joined, dict) or "$ref" in joined or "allOf" in joined:
                return self._stated(joined, deep + 1)
            node = joined
        if any(node[key] not in (False, 0) for key in node.keys() & _UNHELD):
            self._left_out()
        if "enum" in node or "const" in node:
            return self._literal(node)
        if "anyOf" in node or "oneOf" in node:
            return self._alternatives(node, deep)
        return self._typed(node, deep)

    def _only_type(self, node: Mapping[str, Any]) -> Any:
        self._left_out()
        kind = node.get("type")
        return {"type": kind} if isinstance(kind, str) else True

    # --- references ---

    def _reference(self, node: Mapping[str, Any]) -> Any:
        pointer = node["$ref"]
        target = self._target(pointer)
        if target is None:
            return self._only_type(node)
        beside = node.keys() - {"$ref", *_DEFINITIONS}
        if beside and not (beside == {"type"} and _types(target) == _types(node)):
            self._left_out()
        if pointer not in self._names:
            self._names[pointer] = str(len(self._names))
            self._waiting.append((self._names[pointer], target))
        return {"$ref": f"#/$defs/{self._names[pointer]}"}

    def _target(self, pointer: Any) -> Any:
        """What a pointer into the schema points to; None when that is nothing."""
        if not isinstance(pointer, str) or (pointer != "#" and not pointer.startswith("#/")):
            return None
        place = self._root
        for step in unquote(pointer).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping) and step in place:
                place = place[step]
            elif isinstance(place, list) and step.isdecimal() and int(step) < len(place):
                place = place[int(step)]
            else:
                return None
        return place

    # --- several schemas in one ---

    def _joined(self, node: dict[str, Any], deep: int) -> Any:
        """With the parts of `allOf` stated in the schema itself."""
        parts = node.pop("allOf")
        if not isinstance(parts, list):
            self._left_out()
            return node
        if len(parts) == 1 and not node.keys() - _DEFINITIONS:
            return parts[0]
        node = _copied(node)
        for part in parts:
            part = self._inlined(part, deep)
            if not isinstance(part, Mapping):
                if part is not True:
                    self._left_out()
            elif not _join(node, part):
                self._left_out()
        return node

    def _inlined(self, part: Any, deep: int) -> Any:
        """A part with what it refers to in its place; None when there is no room for it."""
        for _ in range(_HOPS):
            if not isinstance(part, Mapping):
                return part
            if "$ref" in part:
                if part.keys() - _SILENT - {"$ref"}:
                    self._left_out()
                part = self._target(part["$ref"])
                if not self._has_room(part):
                    return None
            elif "allOf" in part and deep < _DEEPEST:
                part = self._joined(dict(part), deep + 1)
            else:
                return part
        return None

    def _has_room(self, again: Any) -> bool:
        if self._room > 0:
            self._room -= _SAID_AGAIN + len(json.dumps(again))
        return self._room > 0

    def _alternatives(self, node: dict[str, Any], deep: int) -> Any:
        key = "anyOf" if "anyOf" in node else "oneOf"
        branches = node.pop(key)
        if node.pop("oneOf", None) is not None or key == "oneOf":
            self._left_out()  # several may fit where one is to
        for name in _DEFINITIONS & node.keys():
            del node[name]
        if not isinstance(branches, list):
            return self._typed(node, deep)
        branches = [each for each in branches if each is not False]
        if node and not any(each is True for each in branches):
            branches = [self._with(node, each, deep) for each in branches]
        if None in branches:
            self._left_out()
        if None in branches or any(each is True for each in branches):
            return self._typed(node, deep)
        stated = [self._stated(each, deep + 1) for each in branches]
        if any(each is True for each in stated):
            return self._typed(node, deep)
        stated = [each for each in stated if each is not False]
        return {"anyOf": stated} if stated else False

    def _with(self, node: dict[str, Any], branch: Any, deep: int) -> Any:
        """An alternative with what stands beside it; None when it cannot be said in one."""
        if isinstance(branch, Mapping) and "$ref" in branch and node.keys() == {"type"}:
            target = self._target(branch["$ref"])
            if isinstance(target, Mapping) and target.get("type") == node["type"]:
                return branch
        branch = self._inlined(branch, deep)
        both = _copied(node)
        fits = isinstance(branch, Mapping) and self._has_room(node) and _join(both, branch)
        return both if fits else None

    # --- one kind of value ---

    def _literal(self, node: Mapping[str, Any]) -> Any:
        values = [node["const"]] if "const" in node else node["enum"]
        if not isinstance(values, list):
            return self._only_type(node)
        if node.keys() - _DEFINITIONS - {"type", "const" if "const" in node else "enum"}:
            self._left_out()
        types = _types(node)
        return {"enum": [value for value in values if not types or _kinds(value) & types]}

    def _typed(self, node: Mapping[str, Any], deep: int) -> Any:
        types = sorted(_types(node))
        if not types:
            # A schema that speaks of one kind of value only is meant for that kind.
            types = [kind for kind, words in _OF_TYPE.items() if node.keys() & words]
            if len(types) != 1:
                if types:
                    self._left_out()
                return True
        each = [self._of(kind, node, deep) for kind in types]
        return each[0] if len(each) == 1 else {"anyOf": each}

    def _of(self, kind: str, node: Mapping[str, Any], deep: int) -> dict[str, Any]:
        match kind:
            case "object":
                return self._object(node, deep)
            case "array":
                return self._array(node, deep)
            case "string":
                return self._string(node)
            case "number" | "integer":
                return self._number(kind, node)
            case _:
                return {"type": kind}

    def _object(self, node: Mapping[str, Any], deep: int) -> dict[str, Any]:
        bounds = self._counts(node, "minProperties", "maxProperties")
        stated: dict[str, Any] = {"type": "object", **bounds}
        others = node.get("additionalProperties")
        if "patternProperties" in node:
            others = True
        if others is not None:
            stated["additionalProperties"] = others = self._stated(others, deep + 1)
        properties = node.get("properties", {})
        described: dict[str, Any] = {}
        for name, each in properties.items() if isinstance(properties, Mapping) else ():
            if each is not False:
                described[name] = self._stated(each, deep + 1)
            elif others is not False:
                self._left_out()
        required = node.get("required", [])
        if isinstance(required, list) and required:
            names = list(dict.fromkeys(map(str, required)))
            stated["required"] = names
            missing = [name for name in names if name not in described]
            if missing and others is False:
                self._left_out()  # no object fits
            elif missing:  # what is described nowhere could not be written
                described |= dict.fromkeys(missing, True if others is None else others)
        if "properties" in node or described:
            stated["properties"] = described
        if bounds.get("minProperties", 0) > 1 and others is not False:
            self._left_out()  # one name may be written twice
        if others is None and (bounds or "properties" not in stated):
            stated["additionalProperties"] = True  # which the compiler takes for granted else
        return stated

    def _array(self, node: Mapping[str, Any], deep: int) -> dict[str, Any]:
        bounds = self._counts(node, "minItems", "maxItems")
        stated: dict[str, Any] = {"type": "array", **bounds}
        first, others = node.get("prefixItems"), node.get("items")
        if isinstance(others, list):  # as it was said in older drafts
            first, others = others, node.get("additionalItems")
        if isinstance(first, list):
            stated["prefixItems"] = [self._stated(each, deep + 1) for each in first]
        if others is not None:
            stated["items"] = self._stated(others, deep + 1)
        elif bounds or not first:
            stated["items"] = True
        return stated

    def _counts(self, node: Mapping[str, Any], *keys: str) -> dict[str, int]:
        return {key: int(node[key]) for key in keys if key in node and _is_number(node[key])}

    def _string(self, node: Mapping[str, Any]) -> dict[str, Any]:
        pattern, form = node.get("pattern"), node.get("format")
        if isinstance(pattern, str) and holdable(pattern):
            if form in _FORMATS:
                self._left_out()
            return {"type": "string", "pattern": pattern}
        if pattern is not None:
            self._left_out()
        return {"type": "string", "format": form} if form in _FORMATS else {"type": "string"}

    def _number(self, kind: str, node: Mapping[str, Any]) -> dict[str, Any]:
        stated: dict[str, Any] = {"type": kind}
        for key in _NUMBER:
            bound = node.get(key)
            if bound is None:
                continue
            if not _is_number(bound) or abs(bound) > 2**53 or (kind == "integer" and bound % 1):
                self._left_out()
            else:
                stated[key] = int(bound) if kind == "integer" else bound
        return stated


def _copied(node: Mapping[str, Any]) -> dict[str, Any]:
    """A copy to join others into."""
    return {key: _fresh(value) for key, value in node.items()}


def _fresh(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _join(one: dict[str, Any], other: Mapping[str, Any]) -> bool:
    """Say in `one` what `other` says as well; False when something of it cannot be said there."""
    every = True
    for group in (_NAMES, _ITEMS):
        ours, theirs = one.keys() & group, other.keys() & group
        if not ours:
            one.update((key, _fresh(other[key])) for key in other if key in theirs)
        elif ours == theirs == {"properties"}:
            every &= _describe(one["properties"], other["properties"])
        else:
            every &= all(key in one and one[key] == other[key] for key in theirs)
    for key, value in other.items():
        if key in _SILENT | _DEFINITIONS | _NAMES | _ITEMS:
            continue
        if key not in one:
            one[key] = _fresh(value)
        elif key == "required" and isinstance(value, list) and isinstance(one[key], list):
            one[key] += value
        elif (one[key], value) == ("number", "integer"):
            one[key] = value
        else:
            every &= one[key] == value or (one[key], value) == ("integer", "number")
    return every


def _describe(ours: dict[str, Any], theirs: Mapping[str, Any]) -> bool:
    every = True
    for name, schema in theirs.items():
        every &= ours.setdefault(name, schema) == schema
    return every


def _types(node: Any) -> frozenset[str]:
    """The kinds of value that a schema names; none when it names none."""
    named = node.get("type") if isinstance(node, Mapping) else None
    named = [named] if isinstance(named, str) else named
    return frozenset(each for each in named or () if isinstance(each, str))


def _kinds(value: Any) -> frozenset[str]:
    """What a value is, in the words of JSON Schema."""
    match value:
        case None:
            return frozenset(("null",))
        case bool():
            return frozenset(("boolean",))
        case int():
            return frozenset(("integer", "number"))
        case float():
            return frozenset(("number", "integer") if value.is_integer() else ("number",))
        case str():
            return frozenset(("string",))
        case list():
            return frozenset(("array",))
        case _:
            return frozenset(("object",))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
