"""What one request came to. Values only: no clock, no socket.

Times are seconds of the client's clock. Of requests that failed there is a sample too; nothing that
was sent is ever left out.
"""

from array import array
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "unreachable",  # no connection, or it broke before the reply began
    "refused",  # a status that is not 200; `status` says which
    "silent",  # nothing came for longer than the client waits
    "cut off",  # the stream ended, and the answer had not
    "garbled",  # what came is no event stream of this API
    "failed",  # the stream told of an error
    "malformed",  # the answer ended well, and is not of the form that was asked for
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no good answer."""

    kind: Kind
    text: str
    """One sentence, the server's own where it has one."""
    status: int | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request as its server counts them. None: it does not say."""

    input: int
    output: int
    cache_read: int | None = None
    cache_creation: int | None = None

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, found in a cache or not."""
        return self.input + (self.cache_read or 0) + (self.cache_creation or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request, and what came of it."""

    due: float
    """When it was to be sent. In a closed loop that is when it was; in an open one the server may
    have kept the client from it, and waiting counts from here."""
    sent: float
    """When its first byte left, over a connection that was free or had to be made."""
    ended: float
    late: float = 0.0
    """Seconds from `due` to when the client turned to it: what the client itself lost."""
    first_token: float | None = None
    """When the first piece of the answer came that holds something."""
    last_token: float | None = None
    gaps: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds between two such pieces that follow each other; 0 for those that came in one read."""
    asked_tokens: int
    """`max_tokens`."""
    usage: Usage | None = None
    stop_reason: str | None = None
    counted: int | None = None
    """Tokens of the prompt as `count_tokens` says, where that was asked."""
    failure: Failure | None = None

    @property
    def pieces(self) -> int:
        """Pieces of the answer that came."""
        return 0 if self.first_token is None else len(self.gaps) + 1
