"""A coding agent's session: a prompt that grows turn by turn, with tools and their results.

Comes in: an order, whose input is the size of the longest prompt. Goes out: conversations of twelve
requests; each sends all that the one before it had sent, so that a cache finds much of it. What the
assistant is said to have answered is written here: every server reads the same. It is the session
of the caching bench without its mishaps, and without what only some servers know: the billing line,
which others take for the beginning of a new prompt, thinking, edits of the context and tools that
are made known later. Lengths are about what was ordered.
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from senryu.benches.agentic.session import SMALL, Session, Shape, body, full, write
from senryu.benches.asks import Ask, Conversation

from .base import Count, Order, Workload
from .base import Shape as Size

TURNS = 12
_LARGE = 16_000
"""Tokens from which on a session has twenty tools, as is usual; they alone are some 3,000."""


async def write_sessions(order: Order, count: Count) -> list[Conversation]:
    """Each session begins with words of its own."""
    return [
        tuple(_asks(write(sized(order.shape.input), _number(order.seed, number)), order))
        for number in range(order.conversations)
    ]


def sized(tokens: int) -> Shape:
    """A session whose longest prompt has about so many."""
    if tokens >= _LARGE:
        return full(int(tokens * 0.8), TURNS)  # what it is told, and what its JSON adds
    return replace(
        SMALL,
        turns=TURNS,
        system_tokens=tokens // 14,
        environment_tokens=tokens // 28,
        # Six turns and a summary grow to it; tools, calls and the rest are some 1,700 tokens.
        turn_tokens=max(40, int((0.89 * tokens - 1_700) / 8)),
    )


def _asks(session: Session, order: Order) -> list[Ask]:
    return [
        Ask(body=_body(session, number, order.shape.output)) for number in range(len(session.turns))
    ]


def _body(session: Session, number: int, output: int) -> Mapping[str, Any]:
    turn = session.turns[number]
    asked = body(session, turn, {}, billing="")
    return {
        "max_tokens": output,
        "system": asked["system"][1:],  # without the billing line
        "tools": [tool for tool in asked["tools"] if not tool.get("defer_loading")],
        "messages": asked["messages"],
    }


def _number(seed: str, number: int) -> int:
    """The session's own seed is a number."""
    return zlib.crc32(f"{seed} {number}".encode())


AGENTIC = Workload(
    name="agentic",
    says=f"a coding agent's session of {TURNS} turns, whose prompt grows; --input: the longest one",
    shape=Size(input=4096, output=24),
    write=write_sessions,
    turns=TURNS,
    exact=False,
)
