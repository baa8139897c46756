"""What limits are counted with: a bucket that refills, and a period that begins anew.

Times are seconds since 1970, as one clock gives them; it may stand still or be set back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bucket:
    """What was used of a limit per minute, and not yet forgotten: a sixtieth of the limit is, each
    second. One that nobody limits counts nothing."""

    spent: float = 0.0
    at: float = 0.0
    past: list[tuple[float, int]] = field(default_factory=list)
    """What was used before this server ran, in the order of time: it is counted once the limit is
    known."""

    def left(self, limit: int, now: float) -> float:
        """Below zero when the last request took more than there was."""
        past, self.past = self.past, []
        for at, amount in past:
            self._refill(limit, at)
            self.spent += amount
        self._refill(limit, now)
        return limit - self.spent

    def take(self, amount: float, limit: int | None, now: float) -> float:
        """How much was counted: `amount`, or nothing where there is no limit."""
        if limit is None:
            self.spent = 0.0
            self.past = []
            return 0.0
        self.left(limit, now)
        self.spent += amount
        return amount

    def give_back(self, amount: float, since: float, limit: int | None, now: float) -> None:
        """Some of what was taken `since` was not used. What refilled in between has forgotten that
        much of it already, or of what came after it."""
        if limit is not None:
            self.left(limit, now)
            forgotten = max(0.0, now - since) * limit / 60
            self.spent = max(0.0, self.spent - max(0.0, amount - forgotten))

    def _refill(self, limit: int, now: float) -> None:
        self.spent = max(0.0, self.spent - max(0.0, now - self.at) * limit / 60)
        self.at = now


@dataclass(slots=True)
class Period:
    """What was used in one day or month, and what is held for requests that run."""

    of: Callable[[float], int]
    """The number of the day or month that a time lies in."""
    number: int = 0
    tokens: int = 0
    cost: int = 0
    held_tokens: int = 0
    held_cost: int = 0

    def begin(self, now: float) -> int:
        """The number of the one that it is now; a new one begins with nothing."""
        number = self.of(now)
        if number != self.number:
            self.number = number
            self.tokens = self.cost = self.held_tokens = self.held_cost = 0
        return number
