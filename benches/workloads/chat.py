"""One question, one answer: a short one, and one behind a long text.

Comes in: an order. Goes out: conversations of one request each. System prompt and question begin
with words of their own in each, so that no cache has read one's beginning from another.
"""

from collections.abc import Mapping
from typing import Any

from senryu.benches.asks import Conversation

from .base import Count, Order, Shape, Workload
from .words import Draft, Fitter, Pen


async def write(order: Order, count: Count) -> list[Conversation]:
    """Short or long: the shape says."""
    fitter = Fitter(count)
    found: list[Conversation] = []
    for number in range(order.conversations):
        pen = Pen(f"{order.seed} {number}")
        draft = question(pen, order.shape.output)
        found.append((await fitter.ask(draft, order.shape.input, pen),))
    return found


def question(pen: Pen, output: int) -> Draft:
    """What asks for as long an answer as may be, about a text that is still to be fitted."""
    system = f"{pen.name()}: go on with what you are given, and never come to an end."

    def draft(text: str) -> Mapping[str, Any]:
        return {
            "max_tokens": output,
            "system": system,
            "messages": [{"role": "user", "content": text}],
        }

    return draft


CHAT = Workload(
    name="chat",
    says="short questions, each of its own",
    shape=Shape(input=128, output=64),
    write=write,
)
LONG = Workload(
    name="long",
    says="long prompts and short answers: how fast it reads",
    shape=Shape(input=2048, output=16),
    write=write,
)
