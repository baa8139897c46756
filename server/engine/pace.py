"""How often an answer that is being written is told on.

Each piece of a stream costs the server's process the same, whether it holds one token or ten: a
task wakes up, a frame is built, the kernel is asked to send it. Many fast streams together want
more of that than one core gives, and on a CPU they take it from the model. So all streams share a
number of pieces a second; where more tokens come than that, each stream rests for a moment after
a piece, and vLLM joins what comes meanwhile. One stream alone, or a slow model, never rests.
"""

from collections.abc import Iterator
from contextlib import contextmanager

PIECES = 2_000
"""Of all streams in a second: about an eighth of a core."""
LONGEST = 0.1
"""Seconds between two pieces of a stream, at most: text still seems to flow."""


class Pace:
    """Shares the pieces out among the streams that are open."""

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def stream(self) -> Iterator["Stream"]:
        """One more, until the context closes."""
        self._open += 1
        try:
            yield Stream(self)
        finally:
            self._open -= 1

    @property
    def apart(self) -> float:
        """Seconds from one piece of a stream to its next."""
        return min(LONGEST, self._open / PIECES)


class Stream:
    """Remembers when its next piece is due."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = 0.0

    def rest(self, now: float) -> float:
        """Seconds to rest after a piece that was told at `now`: none where it came late enough.
        `now` must not run backwards."""
        rest = max(0.0, self._due - now)
        self._due = now + rest + self._pace.apart
        return rest
