"""Plays a session against one server: the requests, the mishaps, and what is asked beside them.

Comes in: a client, a session. Goes out: measured turns. One request at a time, as an agent sends
them; `count_tokens` is asked when the answer has come, so that it warms nothing up.
"""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .client import Client
from .figures import Measured
from .session import Block, Session, Turn, billing_line, body, head, unread
from .stream import Attempt, first_token_seconds, signed_thoughts

_DROP_AT = 3
"""Deltas after which the connection breaks."""
_LEAST_PATIENCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a session is played."""

    answer: int
    """`max_tokens` of each request."""
    as_string: bool = False
    """Send the system prompt as one string that begins with the billing line."""


class Player:
    """Plays one session against one server."""

    def __init__(self, client: Client, session: Session, manner: Manner) -> None:
        self._client = client
        self._session = session
        self._manner = manner
        self._requests = itertools.count()
        self._echoes: dict[int, list[Block]] = {}
        self._waited: list[float] = []

    def warm_up(self) -> Attempt:
        """A short request with one tool, for what a server does only once. It shares nothing with
        the session."""
        schema = {"type": "object", "properties": {"greeting": {"type": "string"}}}
        tool = {"name": "Greet", "description": "Says hi.", "input_schema": schema}
        messages = [{"role": "user", "content": "Say hi."}]
        return self._client.ask({"tools": [tool], "messages": messages}, answer=4)

    def turns(self) -> Iterator[Measured]:
        """All turns in order. Raises Refused."""
        return map(self._turn, self._session.turns)

    def first(self) -> Attempt:
        """The first turn alone."""
        return self._ask(self._body(self._session.turns[0]))

    def last_with_another_billing_line(self) -> Attempt:
        """The last turn's request once more, and only that line is another."""
        return self._ask(self._body(self._session.turns[-1]))

    def cold(self, measured: Measured) -> Measured:
        """With the time to the first token of the same request when nothing of it was read."""
        turn = self._session.turns[measured.number - 1]
        asked = unread(self._body(turn), f"{self._session.seed}-{turn.number}")
        return replace(measured, cold_seconds=first_token_seconds(self._ask(asked)))

    def _turn(self, turn: Turn) -> Measured:
        asked = self._body(turn)
        attempts: list[Attempt] = []
        if turn.mishap == "dropped":
            attempts.append(self._ask(asked, drop_at=_DROP_AT))
        elif turn.mishap == "timed out":
            attempts.append(self._ask(asked, leave_after=self._patience()))
        attempts.append(self._ask(asked))  # the very same bytes
        waited = first_token_seconds(attempts[-1])
        if turn.number > 1 and waited is not None:
            self._waited.append(waited)
        self._echoes[turn.number] = signed_thoughts(attempts[-1])
        return Measured(
            number=turn.number,
            kind=_kind(turn),
            attempts=tuple(attempts),
            counted=self._client.count(asked),
            shared=self._client.count(self._head()) if turn.afresh else None,
        )

    def _patience(self) -> float:
        """Half of what the turns before waited: the prompt is being read then."""
        return max(_LEAST_PATIENCE, statistics.median(self._waited) / 2 if self._waited else 1.0)

    def _ask(self, asked: dict[str, Any], **mishap: Any) -> Attempt:
        return self._client.ask(asked, answer=self._manner.answer, **mishap)

    def _body(self, turn: Turn) -> dict[str, Any]:
        as_string = self._manner.as_string
        return body(self._session, turn, self._echoes, billing=self._billing(), as_string=as_string)

    def _head(self) -> dict[str, Any]:
        """Tools and system prompt, with a message of one word."""
        first = head(self._session, billing=self._billing(), as_string=self._manner.as_string)
        return first | {"messages": [{"role": "user", "content": "x"}]}

    def _billing(self) -> str:
        return billing_line(self._session.seed, next(self._requests))


def _kind(turn: Turn) -> str:
    if turn.number == 1:
        return "first"
    return "compacted" if turn.afresh else turn.mishap or "grown"
