"""The queue before the engine: how many may wait, who is next, and when to come back.

The engine is given as many requests at a time as it works on. Of those that wait, the next is the
oldest of whoever has the fewest in the engine, so one who sends a thousand does not hold up the
others. Requests of batches take what nobody else wants, and give it back when somebody does.

For the event loop alone.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from senryu.server.wire.errors import Overloaded

_PACE_OF = 64  # finished requests
_LONGEST_RETRY = 60


@dataclass(slots=True, eq=False)
class Place:
    """One request's place: first in the queue, then in the engine. `leave` gives it up."""

    whose: str
    tokens: int
    batch: bool
    gives_way: bool = False
    """Whether somebody waits for it who goes first: its answer is to be broken off."""
    on_giving_way: Callable[[], None] | None = field(default=None, repr=False)
    """Called when that begins to be so."""
    _desk: "Desk" = field(repr=False, kw_only=True)
    _seat: asyncio.Future[None] = field(repr=False, kw_only=True)
    _left: bool = False

    async def seat(self) -> None:
        """Wait for a place in the engine."""
        await asyncio.shield(self._seat)

    @property
    def seated(self) -> bool:
        return self._seat.done()

    def leave(self) -> None:
        """The answer is made, or nobody waits for it any longer. May be said twice."""
        if not self._left:
            self._left = True
            self._desk._leave(self)


class Desk:
    """Gives out `seats`, of which batches get at most `batch_seats`."""

    def __init__(
        self,
        *,
        seats: int,
        batch_seats: int,
        max_queued: int,
        max_queued_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seats = seats
        self._batch_seats = min(batch_seats, seats)
        self._max_queued = max_queued
        self._max_tokens = max_queued_tokens
        self._clock = clock
        # Whose they are, each with those that wait, the oldest first; batches apart.
        self._lines: dict[str, deque[Place]] = {}
        self._batch_line: deque[Place] = deque()
        self._seated: dict[Place, None] = {}
        self._active: Counter[str] = Counter()
        self._yielding = 0
        self._finished: deque[float] = deque(maxlen=_PACE_OF)
        self.queued = 0
        """Requests that wait, without those of batches."""
        self.queued_tokens = 0

    @property
    def active(self) -> int:
        """Requests that the engine works on."""
        return len(self._seated)

    @property
    def active_batch(self) -> int:
        return sum(place.batch for place in self._seated)

    def check(self) -> None:
        """Raises Overloaded when nobody else may wait: asked before a prompt is made."""
        if self.queued >= self._max_queued or self.queued_tokens >= self._max_tokens:
            raise Overloaded("Overloaded", retry_after=self.retry_after())

    def place(self, whose: str, tokens: int, *, batch: bool = False) -> Place:
        """A place for a prompt of so many tokens: in the engine if there is one, else in the queue.
        Raises Overloaded when the queue is full; whoever finds nobody there may always wait."""
        seat = asyncio.get_running_loop().create_future()
        place = Place(whose, tokens, batch, _desk=self, _seat=seat)
        if batch:
            self._batch_line.append(place)
        else:
            free = self.active < self.seats and not self.queued
            full = self.queued_tokens + tokens > self._max_tokens and self.queued
            if not free and (full or self.queued >= self._max_queued):
                raise Overloaded("Overloaded", retry_after=self.retry_after())
            self._lines.setdefault(whose, deque()).append(place)
            self.queued += 1
            self.queued_tokens += tokens
        self._fill()
        return place

    def retry_after(self) -> int:
        """Seconds in which half of those that wait now will have had their turn, by how fast the
        last ones were done."""
        if len(self._finished) < 2:
            return 1
        pace = (self._finished[-1] - self._finished[0]) / (len(self._finished) - 1)
        return max(1, min(_LONGEST_RETRY, math.ceil(pace * self.queued / 2)))

    def _leave(self, place: Place) -> None:
        if place in self._seated:
            del self._seated[place]
            self._finished.append(self._clock())
            self._active[place.whose] -= 1
            if not self._active[place.whose]:
                del self._active[place.whose]
            if place.gives_way:
                self._yielding -= 1
        elif place.batch:
            self._batch_line.remove(place)
        else:
            line = self._lines[place.whose]
            line.remove(place)
            if not line:
                del self._lines[place.whose]
            self._unqueue(place)
        self._fill()

    def _unqueue(self, place: Place) -> None:
        self.queued -= 1
        self.queued_tokens -= place.tokens

    def _fill(self) -> None:
        while self.active < self.seats:
            place = self._next()
            if place is None:
                return
            self._seated[place] = None
            self._active[place.whose] += 1
            if not place._seat.done():
                place._seat.set_result(None)
        self._make_way()

    def _next(self) -> Place | None:
        if self._lines:
            # A dictionary keeps the order in which they came to wait: of equals the first is taken.
            whose = min(self._lines, key=lambda each: self._active[each])
            # ... and is then last among them.
            line = self._lines.pop(whose)
            place = line.popleft()
            if line:
                self._lines[whose] = line
            self._unqueue(place)
            return place
        if self._batch_line and self.active_batch < self._batch_seats:
            return self._batch_line.popleft()
        return None

    def _make_way(self) -> None:
        """As many requests of batches break off as others wait; the latest, which lose least."""
        wanted = self.queued - self._yielding
        if wanted <= 0:
            return
        for place in reversed(list(self._seated)):
            if wanted <= 0:
                break
            if place.batch and not place.gives_way:
                place.gives_way = True
                self._yielding += 1
                wanted -= 1
                if place.on_giving_way is not None:
                    place.on_giving_way()
