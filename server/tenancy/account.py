"""What is told of one request for an answer: to the ledger, the limits, the counters and the log.

Values only. Times are in milliseconds since 1970, UTC; money in billionths of a dollar.
"""

from dataclasses import dataclass
from typing import Literal

from senryu.server.conversation.messages import Usage

from .callers import Caller

Tier = Literal["standard", "batch"]
State = Literal["done", "left", "failed"]
"""How it ended: with its answer, with a client that left first, or with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A request that was admitted: its prompt is made and its limits allow it."""

    id: str
    """Of the message: msg_..."""
    request_id: str
    caller: Caller
    model: str
    task: str | None
    """What the client calls this kind of work."""
    user_hash: str | None
    """Of the user that the client names in its metadata."""
    tier: Tier
    batch_id: str | None
    started_at: int
    prompt_tokens: int
    max_tokens: int
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended."""

    opened: Opened
    state: State
    usage: Usage
    """What was read and written till then, whatever the state."""
    stop_reason: str | None
    ended_at: int
    queued_ms: int
    """How long it waited for its place in the engine."""
    first_token_ms: int | None
    """From its beginning to its first token; None when there was none."""
    cost: int
    error_type: str | None = None
