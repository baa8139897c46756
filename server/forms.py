"""The form that an answer is held to, or the client's error where it cannot be.

Where the engine cannot hold an answer to a schema, the client is told so if it insists: with
`strict`, or by asking for that form of answer. The input of other tools is then any object, which a
header tells.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from senryu.server.conversation.messages import Demands, Tool
from senryu.server.engine.base import Engine
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.grammar import answer_grammar, called, form_on_trial, unheld
from senryu.server.turn.holding import too_much
from senryu.server.turn.turn import Turn
from senryu.server.wire.errors import InvalidRequest

Refusal = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer is held to."""

    turn: Turn
    """With the grammar of its demands."""
    on_trial: str | None
    """What the engine is to try first; None when there is nothing to try."""
    unheld: tuple[str, ...]
    """The fields of the request that it is not held to, or only in part."""


def form_of(turn: Turn, engine: Engine) -> Form:
    """Building one takes its time where the schemas are long. Raises InvalidRequest."""
    demands = _measured(turn.demands)
    dialect = engine.card.dialect
    room = engine.card.window - len(turn.prompt)
    grammar = answer_grammar(dialect, demands, allowed=min(turn.sampling.max_tokens, room))
    return Form(
        replace(turn, demands=demands, sampling=replace(turn.sampling, grammar=grammar)),
        form_on_trial(dialect, demands),
        tuple(unheld(demands)),
    )


async def tried(form: Form, engine: Engine) -> Form:
    """The form as the engine can hold an answer to it. Raises InvalidRequest and EngineError."""
    if form.on_trial is None or await engine.refusal(form.on_trial) is None:
        return form
    demands = await _loosened(form.turn.demands, engine.card.dialect, engine.refusal)
    form = await asyncio.to_thread(form_of, replace(form.turn, demands=demands), engine)
    why_not = await engine.refusal(form.on_trial) if form.on_trial else None
    if why_not is not None:
        raise InvalidRequest(f"tools: no answer can be held to all of these schemas: {why_not}")
    return form


def _measured(demands: Demands) -> Demands:
    """With no schema beyond measure among those that the answer has to fit."""
    schema = demands.output_schema
    if schema is not None and (excess := too_much(schema)):
        raise _refused_format(excess)
    excessive = []
    for tool in called(demands):
        if tool.enforced and (excess := too_much(tool.input_schema)):
            excessive.append(_not_strict(tool, excess))
    return _without(demands, excessive)


def _not_strict(tool: Tool, why_not: str) -> Tool:
    """A tool that may be loosened."""
    if tool.strict:
        raise InvalidRequest(f"tools: the input_schema of {tool.name}: {why_not}")
    return tool


async def _loosened(demands: Demands, dialect: Dialect, refusal: Refusal) -> Demands:
    """With any object as the input of the tools that are too much; where it is not one alone that
    is, of all that do not insist."""

    async def refused(alone: Demands) -> str | None:
        form = await asyncio.to_thread(form_on_trial, dialect, alone)
        return await refusal(form) if form else None

    if demands.output_schema is not None:
        why_not = await refused(Demands(output_schema=demands.output_schema))
        if why_not is not None:
            raise _refused_format(why_not)
    enforced = [tool for tool in called(demands) if tool.enforced]
    heavy = []
    for tool in enforced:
        why_not = await refused(Demands(callable_tools=(tool,)))
        if why_not is not None:
            heavy.append(_not_strict(tool, why_not))
    return _without(demands, heavy or [tool for tool in enforced if not tool.strict])


def _without(demands: Demands, heavy: list[Tool]) -> Demands:
    if not heavy:
        return demands
    names = {tool.name for tool in heavy}
    tools = (
        replace(tool, enforced=False) if tool.name in names else tool
        for tool in demands.callable_tools
    )
    return replace(demands, callable_tools=tuple(tools))


def _refused_format(why_not: str) -> InvalidRequest:
    return InvalidRequest(f"output_config.format.schema: {why_not}")
