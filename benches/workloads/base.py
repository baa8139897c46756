"""What a workload is: a name, its usual size, and a hand that writes its conversations.

Values only, and pure; what a server counts is asked through a function that comes in.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from senryu.benches.asks import Conversation

Count = Callable[[Mapping[str, Any]], Awaitable[int | None]]
"""Tokens of the prompt of a body, as the server counts them; None where it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a request is, in tokens as the server counts them."""

    input: int
    """Of the prompt, with all that the server's template adds; without `prefix`."""
    output: int
    """At most, in one answer."""
    prefix: int = 0
    """Of the beginning that all requests share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be written."""

    shape: Shape
    conversations: int
    seed: str
    """Of another seed nothing is the same, not even the first words."""
    first: int = 0
    """How many conversations were ordered before: what is read and not written goes on there."""


Write = Callable[[Order, Count], Awaitable[list[Conversation]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One way to ask."""

    name: str
    says: str
    """Half a sentence for the list."""
    shape: Shape
    write: Write
    turns: int = 1
    """Requests of a conversation."""
    exact: bool = True
    """Whether prompts are written to the length of the shape."""
    batched: bool = False
    """Whether all requests go in one message batch, and not each by itself."""
    has: int | None = None
    """How many different conversations there are; None: as many as one likes."""
