"""The grammar of an answer: what a model may write, so that what was promised of it holds.

Demands and a dialect's marks in, a structural tag out: the JSON by which xgrammar describes text
that mixes free writing with JSON Schemas. The same demands give the same bytes always, so that
the engine finds what it has compiled before. Pure: nothing is compiled here, nothing imported
that could.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from senryu.server.conversation.messages import Demands, Tool, ToolChoice

from .budget import thinking_budget
from .dialects.base import CallMarks, Dialect, ThoughtMarks
from .holding import Held, held

Format = dict[str, Any]
"""One part of a structural tag."""

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def answer_grammar(dialect: Dialect, demands: Demands, *, allowed: int) -> str | None:
    """The grammar of an answer of at most `allowed` tokens; None when anything may be written."""
    if allowed <= 0:
        return None
    budget = None
    if demands.thinking is not None:
        budget = thinking_budget(demands.thinking, allowed=allowed)
    return structural_tag(dialect, demands, thinking_budget=budget)


def form_on_trial(dialect: Dialect, demands: Demands) -> str | None:
    """The grammar of all the schemas that the answer may have to fit; None when there are none.

    The same whatever the thought and the tokens left for it, and it begins with a call where that
    is possible: whoever tries it at random tries a call.
    """
    tools = called(demands)
    choice = ToolChoice(mode="auto" if demands.output_schema is not None else "any")
    if not tools and demands.output_schema is None:
        return None
    tried = replace(demands, callable_tools=tools, tool_choice=choice, thinking=None)
    return structural_tag(dialect, tried, thinking_budget=None)


def unheld(demands: Demands) -> Iterator[str]:
    """The fields of a request with schemas that the answer is held to only in part."""
    tools = called(demands)
    if not all(tool.enforced and _input(tool).whole for tool in tools):
        yield "tools.input_schema"
    if demands.output_schema is not None and not held(demands.output_schema).whole:
        yield "output_config.format"


def called(demands: Demands) -> tuple[Tool, ...]:
    """The tools that the answer may call."""
    choice = demands.tool_choice
    if choice.mode == "none":
        return ()
    if choice.mode == "tool":
        return tuple(tool for tool in demands.callable_tools if tool.name == choice.name)
    return demands.callable_tools


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
        unwritten = bool(demands.callable_tools) and dialect.calls.anywhere
        excludes = [dialect.calls.opening] if unwritten else []
        thought = _thought(dialect.thought, thinking_budget, excludes)
        answer = _sequence(*thought, answer or {"type": "any_text"})
    if answer is None:
        return None
    return json.dumps({"type": "structural_tag", "format": answer})


def _answer(marks: CallMarks, demands: Demands) -> Format | None:
    """What follows the thought; None when that is free."""
    choice, tools = demands.tool_choice, called(demands)
    fitting = None if demands.output_schema is None else _fitting(held(demands.output_schema))
    if not demands.callable_tools:
        return fitting
    if choice.mode == "none":
        return fitting or _free(marks)
    assert tools, "the tool that is to be called may be called"
    calls = _calls(marks, tools, several=choice.parallel and marks.parallel)
    at_once = _sequence(_constant(marks.opening), calls)
    if choice.forced:
        return at_once
    if fitting or not marks.anywhere:
        return {"type": "or", "elements": [at_once, fitting or _free(marks)]}
    # Free until a call is opened; behind the last call the answer ends.
    return {"type": "dispatch", "rules": [[marks.opening, calls]], "loop": False}


def _free(marks: CallMarks) -> Format:
    """Text in which no call opens."""
    if marks.anywhere:
        return {"type": "any_text", "excludes": [marks.opening]}
    begun = (marks.opening[:length] for length in range(len(marks.opening)))
    ways = [f"{_literally(each)}[^{_literally(marks.opening[len(each)])}]" for each in begun]
    return _sequence({"type": "regex", "pattern": "|".join(ways)}, {"type": "any_text"})


def _literally(text: str) -> str:
    return re.sub(r"([][\\^$.|?*+(){}/-])", r"\\\1", text)


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
    head, tail = marks.head_of(tool.name), marks.tail
    return {"type": "tag", "begin": head, "content": _fitting(_input(tool)), "end": tail}


def _input(tool: Tool) -> Held:
    return held(tool.input_schema if tool.enforced else _ANY_OBJECT, an_object=True)


def _fitting(what: Held) -> Format:
    """JSON that fits the schema, with no more than one space between two of its parts: a model
    that is held to a schema may else write spaces until its tokens are spent."""
    return {"type": "json_schema", "json_schema": what.schema, "max_whitespace_cnt": 1}


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
