"""Answers of a demanded form: a call of one of a few tools, and JSON that fits a schema.

Comes in: an order. Goes out: conversations of one request each, which say what an answer must hold.
System prompt and the first tool's description begin with words of their own in each.
"""

from collections.abc import Mapping
from typing import Any

from senryu.benches.asks import Conversation

from .base import Count, Order, Shape, Workload
from .words import Draft, Fitter, Pen

_TOOLS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("find_order", "finds an order.", {"number": "integer", "year": "integer"}),
    ("cancel_order", "cancels an order.", {"number": "integer", "reason": "string"}),
    ("send_letter", "sends a letter.", {"city": "string", "text": "string"}),
)
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Kyoto", "Lima", "Oslo", "Tunis"]},
        "number": {"type": "integer"},
        "paid": {"type": "boolean"},
    },
    "required": ["city", "number", "paid"],
    "additionalProperties": False,
}


async def write_calls(order: Order, count: Count) -> list[Conversation]:
    """Some tool has to be called."""
    fitter = Fitter(count)
    found: list[Conversation] = []
    for number in range(order.conversations):
        pen = Pen(f"{order.seed} {number}")
        ask = await fitter.ask(_call(pen, order.shape.output), order.shape.input, pen, "call")
        found.append((ask,))
    return found


async def write_json(order: Order, count: Count) -> list[Conversation]:
    """The answer has to fit a schema."""
    fitter = Fitter(count)
    found: list[Conversation] = []
    for number in range(order.conversations):
        pen = Pen(f"{order.seed} {number}")
        ask = await fitter.ask(_json(pen, order.shape.output), order.shape.input, pen, "json")
        found.append((ask,))
    return found


def _call(pen: Pen, output: int) -> Draft:
    system, own = f"{pen.name()}: you keep the books of a shop.", pen.name()
    tools = [
        {
            "name": name,
            "description": f"{own}: {says}" if place == 0 else says,
            "input_schema": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in given.items()},
                "required": list(given),
            },
        }
        for place, (name, says, given) in enumerate(_TOOLS)
    ]
    order = pen.number(100, 999)

    def draft(text: str) -> Mapping[str, Any]:
        asked = f"{text}. What became of order {order}?"
        return {
            "max_tokens": output,
            "system": system,
            "tools": tools,
            "tool_choice": {"type": "any"},
            "messages": [{"role": "user", "content": asked}],
        }

    return draft


def _json(pen: Pen, output: int) -> Draft:
    system = f"{pen.name()}: you answer in JSON."
    order = pen.number(100, 999)

    def draft(text: str) -> Mapping[str, Any]:
        asked = f"{text}. Order {order} of the shop in Lima is paid. Give city, number and paid."
        return {
            "max_tokens": output,
            "system": system,
            "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
            "messages": [{"role": "user", "content": asked}],
        }

    return draft


TOOLS = Workload(
    name="tools",
    says="a call of one of three tools is demanded; a call that cannot be read is a failure",
    shape=Shape(input=512, output=128),
    write=write_calls,
)
JSON = Workload(
    name="json",
    says="an answer that fits a JSON schema is demanded; one that cannot be read is a failure",
    shape=Shape(input=192, output=96),
    write=write_json,
)
