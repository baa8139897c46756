"""Different questions behind one long system prompt, which is marked for the cache.

Comes in: an order. Goes out: conversations of one request each. Of another order the system prompt
is another: the first request of each repeat finds nothing in a cache, and those behind it may.
"""

from collections.abc import Mapping
from typing import Any

from senryu.benches.asks import Conversation

from .base import Count, Order, Shape, Workload
from .words import Draft, Fitter, Pen


async def write(order: Order, count: Count) -> list[Conversation]:
    shape = order.shape
    prefix = await _prefix(order, count)
    fitter = Fitter(count)
    found: list[Conversation] = []
    for number in range(order.conversations):
        draft = _behind(prefix, shape.output)
        pen = Pen(f"{order.seed} {number}")
        found.append((await fitter.ask(draft, shape.prefix + shape.input, pen),))
    return found


async def _prefix(order: Order, count: Count) -> str:
    """A system prompt that makes a request longer by so many tokens."""

    def draft(text: str) -> Mapping[str, Any]:
        return _behind(text, order.shape.output)("a")

    # What stands around it is counted with one word in its place, which is a token.
    around = await count(draft("a")) or 1
    text, _ = await Fitter(count).text(draft, around - 1 + order.shape.prefix, Pen(order.seed))
    return text


def _behind(prefix: str, output: int) -> Draft:
    system = [{"type": "text", "text": prefix, "cache_control": {"type": "ephemeral"}}]

    def draft(text: str) -> Mapping[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"max_tokens": output, "system": system, "messages": messages}

    return draft


SHARED_PREFIX = Workload(
    name="shared-prefix",
    says="different questions behind one long system prompt with a mark for the cache",
    shape=Shape(input=64, output=32, prefix=1024),
    write=write,
)
