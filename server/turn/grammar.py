"""The grammar of an answer: what a model may write, so that what was promised of it holds.

Demands and a dialect's marks in, a structural tag out: the JSON by which xgrammar describes text
that mixes free writing with JSON Schemas. The same demands give the same bytes always, so that
the engine finds what it has compiled before. Pure: nothing is compiled here, nothing imported
that could.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from senryu.server.conversation.messages import Demands, Tool

from .dialects.base import CallMarks, Dialect, ThoughtMarks
from .holding import held

Format = dict[str, Any]
"""One part of a structural tag."""

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def structural_tag(
    dialect: Dialect, demands: Demands, *, thinking_budget: int | None
) -> str | None:
    """The structural tag of an answer that keeps to `demands`; None when anything may be written.

    `thinking_budget` is the most tokens that the thought may take, its closing mark included; None
    where the answer does not begin with one.
    """
    answer = _answer(dialect.calls, demands)
    if thinking_budget is not None:
        assert dialect.thought, "only a model that thinks is given a budget to think with"
        unwritten = [dialect.calls.opening] if demands.callable_tools else []
        thought = _thought(dialect.thought, thinking_budget, unwritten)
        answer = _sequence(*thought, answer or {"type": "any_text"})
    if answer is None:
        return None
    return json.dumps({"type": "structural_tag", "format": answer})


def _answer(marks: CallMarks, demands: Demands) -> Format | None:
    """What follows the thought; None when that is free."""
    tools, choice = demands.callable_tools, demands.tool_choice
    fitting = None if demands.output_schema is None else _fitting(demands.output_schema)
    if not tools:
        return fitting
    if choice.mode == "none":
        return fitting or {"type": "any_text", "excludes": [marks.opening]}
    if choice.mode == "tool":
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        assert tools, "the tool that is to be called may be called"
    calls = _calls(marks, tools, several=choice.parallel and marks.parallel)
    at_once = _sequence(_constant(marks.opening), calls)
    if choice.forced:
        return at_once
    if fitting:
        return {"type": "or", "elements": [at_once, fitting]}
    # Free until a call is opened; behind the last call the answer ends.
    return {"type": "dispatch", "rules": [[marks.opening, calls]], "loop": False}


def _calls(marks: CallMarks, tools: Sequence[Tool], *, several: bool) -> Format:
    """One call or several, the first one's opening mark already written."""
    return {
        "type": "tags_with_separator",
        "tags": [_call(marks, tool) for tool in tools],
        "separator": marks.separator + marks.opening,
        "at_least_one": True,
        "stop_after_first": not several,
    }


def _call(marks: CallMarks, tool: Tool) -> Format:
    schema = tool.input_schema if tool.enforced else _ANY_OBJECT
    head, tail = marks.head_of(tool.name), marks.tail
    return {"type": "tag", "begin": head, "content": _fitting(schema), "end": tail}


def _fitting(schema: Mapping[str, Any]) -> Format:
    """JSON that fits the schema, with no more than one space between two of its parts: a model
    that is held to a schema may else write spaces until its tokens are spent."""
    return {"type": "json_schema", "json_schema": held(schema), "max_whitespace_cnt": 1}


def _thought(marks: ThoughtMarks, budget: int, unwritten: list[str]) -> list[Format]:
    """The thought and its closing mark, which comes of itself when the budget is spent.

    In the worst case the model spells the mark byte by byte. The space behind the mark is
    constant and no part of what ends a thought, or a mark without it would be thought further.
    """
    words = budget - len(marks.closing.encode())
    inside: Format = {"type": "any_text", "max_tokens": max(0, words), "excludes": unwritten}
    end = marks.closing.rstrip()
    thought: list[Format] = [{"type": "tag", "begin": "", "content": inside, "end": end}]
    if space := marks.closing.removeprefix(end):
        thought.append(_constant(space))
    return thought


def _constant(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*parts: Format) -> Format:
    return {"type": "sequence", "elements": list(parts)}
