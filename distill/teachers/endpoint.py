"""A teacher behind an address: any endpoint of the Messages API, or of OpenAI's chat completions.

Comes in: asks. Goes out: answers, of text alone. What the two kinds of endpoint are sent, and how
they answer, stands in `spoken.py`; here is who is asked how often. It refuses to know prompts,
tokens and what becomes of the answers.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import whole_letters
from senryu.distill.recipe import TeacherRecipe
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
)

from . import spoken
from .base import Answer, Ask, TeacherCard
from .side_by_side import side_by_side

TRIES = 6
BUSY_TRIES = 12
"""Some minutes in all: whoever is busy says so for as long as a window of its limits lasts."""
ODD_TRIES = 3
LEAST_REFUSALS = 8
"""So many first requests may be refused before the recipe is thought to be at fault, and at least
one for each stream: refusals come back long before the first answer does."""
_LONGEST_PAUSE = 60.0
_LONGEST_ASKED = 600.0
_SECONDS = 300.0  # an answer may wait behind others at the endpoint

_BUSY = frozenset({429, 503, 529})  # 529 is Anthropic's own "overloaded"
_PASSING = frozenset({408, 409, 425})  # and whatever is the endpoint's own fault
_HOPELESS = {
    401: "its key is not accepted: set the variable that teacher.key_variable names",
    402: "it wants to be paid first: what was answered so far is kept, so run again once it is",
    403: "it does not allow this: check the key and what it may do",
    404: "it has no such address or model: correct teacher.url; another teacher.model wants "
    "another --out",
}
_UNPAID = re.compile(r"credit balance|billing|insufficient (?:balance|credit|fund)", re.IGNORECASE)

_FIRST_TURN = (
    "Write one message that a person might send to an AI assistant{about}. Write only the message "
    "itself, in the person's words."
)
_NEXT_TURN = (
    "Now write the message that the person might send next in this conversation. Write only the "
    "message itself, in the person's words."
)


class EndpointTeacher:
    """Asks `recipe.url`, `recipe.streams` answers at once."""

    def __init__(
        self,
        recipe: TeacherRecipe,
        *,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        speaks = spoken.MESSAGES if recipe.api == "messages" else spoken.CHAT
        self._speaks = speaks
        self._model = recipe.model
        self._url = _address(recipe.url or "", speaks.path)
        self._streams = max(1, recipe.streams)
        self._room = asyncio.Semaphore(self._streams)
        self._sleep = sleep
        self._answered = False
        self._refused = 0
        self._client = self._opened(key, transport)
        self.card = TeacherCard(
            name=recipe.model, folder=None, distributions=False, thinks=speaks.thinks
        )

    def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
        return side_by_side(asks, self._answer, self._streams)

    async def user_turn(
        self, conversation: Conversation | None, *, system: str, sampling: Sampling, seed: int
    ) -> str | None:
        about = f" about this: {system}" if system else ""
        before = conversation.messages if conversation is not None else ()
        wish = _NEXT_TURN if before else _FIRST_TURN.format(about=about)
        told = Message(role="user", content=(TextBlock(text=wish),))
        asked = Conversation(
            messages=(*before, told), system=conversation.system if conversation else ()
        )
        ask = Ask(key="user", conversation=asked, sampling=sampling, demands=Demands(), seed=seed)
        answer = await self._answer(ask)
        whole = answer.stop_reason is StopReason.END_TURN
        text = answer.message.text.strip().strip('"').strip()
        return text if whole and text else None

    async def close(self) -> None:
        await self._client.aclose()

    def _opened(
        self, key: str | None, transport: httpx.AsyncBaseTransport | None
    ) -> httpx.AsyncClient:
        try:
            url = httpx.URL(self._url)
        except httpx.InvalidURL as error:
            raise DistillError(f"teacher.url, {self._url}, is no address ({error}).") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise DistillError(
                f"teacher.url, {self._url}, is no address: one begins with http:// "
                "or https:// and a host."
            )
        if key and not (key.isascii() and key.isprintable()):
            raise DistillError(
                "The variable that teacher.key_variable names holds what is no key: a key has no "
                "letters beyond ASCII."
            )
        return httpx.AsyncClient(
            headers=self._speaks.headers(key),
            timeout=httpx.Timeout(_SECONDS, connect=15.0),
            limits=httpx.Limits(max_connections=self._streams),
            transport=transport,
        )

    async def _answer(self, ask: Ask) -> Answer:
        """Without content, and with the reason, where the endpoint refuses this ask alone."""
        body = whole_letters(self._speaks.request(ask, self._model))
        async with self._room:
            tried = 0
            while True:
                tried += 1
                outcome = await self._once(body)
                if not isinstance(outcome, _Failure):
                    self._answered = True
                    message, reason = outcome
                    return Answer(key=ask.key, message=message, stop_reason=reason)
                if outcome.tries <= tried:
                    break
                await self._sleep(outcome.wait or _pause(tried))
        if not outcome.of_this_ask:
            raise self._failed(outcome, tried)
        self._refused += 1
        if not self._answered and self._refused >= max(LEAST_REFUSALS, self._streams):
            raise self._refusing(outcome)
        nothing = Message(role="assistant", content=())
        return Answer(
            key=ask.key, message=nothing, stop_reason=StopReason.END_TURN, fault=outcome.problem
        )

    async def _once(self, body: dict[str, Any]) -> tuple[Message, StopReason] | _Failure:
        """One request. Raises DistillError where no other will do better."""
        try:
            response = await self._client.post(self._url, json=body)
        except httpx.DecodingError as error:
            return _odd(error)
        except httpx.RequestError as error:
            return _Failure(_named(error), TRIES)
        status, problem = response.status_code, f"status {response.status_code}{_reason(response)}"
        if response.is_success:
            try:
                return self._speaks.read(response.json())
            except spoken.NO_ANSWER as error:
                return _odd(error)
        if status in _BUSY:
            return _Failure(problem, BUSY_TRIES, wait=_asked_pause(response))
        if status in _PASSING or status >= 500:
            return _Failure(problem, TRIES, wait=_asked_pause(response))
        self._give_up_on(status, problem)
        return _Failure(f"refused with {problem}", 1, of_this_ask=True)

    def _give_up_on(self, status: int, problem: str) -> None:
        """Raises DistillError where no ask will be answered any more."""
        if status == 403 and self._answered:  # then it is about what this one asks
            return
        advice = _HOPELESS.get(402 if _UNPAID.search(problem) else status)
        if 300 <= status < 400:
            advice = "what was asked for has moved: give its new address as teacher.url"
        if advice:
            raise DistillError(f"{self._url} refuses with {problem}; {advice}.")

    def _failed(self, failure: _Failure, tried: int) -> DistillError:
        fewer = failure.tries == BUSY_TRIES and self._streams > 1
        return DistillError(
            f"{self._url} failed {tried} times in a row ({failure.problem}): what was answered so "
            "far is kept, so run the same command again later"
            + (", or with fewer teacher.streams." if fewer else ".")
        )

    def _refusing(self, failure: _Failure) -> DistillError:
        if failure.tries == ODD_TRIES:
            return DistillError(
                f"{self._url} does not answer in the form of the {self._speaks.name} "
                f"({failure.problem}): correct teacher.url; another teacher.api wants another "
                "--out."
            )
        return DistillError(
            f"{self._url} answers none of the first {self._refused} requests ({failure.problem}): "
            "correct teacher or collect in the recipe, and give another --out."
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request brought no answer."""

    problem: str
    tries: int
    """How often it is tried in all."""
    wait: float | None = None
    """Seconds that the endpoint asks for."""
    of_this_ask: bool = False
    """Whether others may be answered all the same."""


def _odd(error: Exception) -> _Failure:
    return _Failure(f"an answer of another form, {_named(error)}", ODD_TRIES, of_this_ask=True)


def _named(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return type(error).__name__ + (f": {said}" if said else "")


def _address(base: str, path: str) -> str:
    """Bases are given with and without the version at their end."""
    base = base.rstrip("/")
    if base.endswith(path):
        return base
    return base + path.removeprefix("/v1") if base.endswith("/v1") else base + path


def _pause(tried: int) -> float:
    """Twice as long each time, and not all at the same moment."""
    return min(_LONGEST_PAUSE, 0.5 * 2.0**tried) * random.uniform(0.5, 1.0)  # noqa: S311


def _asked_pause(response: httpx.Response) -> float | None:
    """How long the endpoint asks us to wait, in seconds or until a moment; what is longer than we
    would is asked again before."""
    told = response.headers.get("retry-after", "")
    try:
        asked = float(told)
    except ValueError:
        try:
            until = parsedate_to_datetime(told)
        except ValueError:
            return None
        if until.tzinfo is None:  # "-0000" says that the zone is not known
            until = until.replace(tzinfo=UTC)
        asked = (until - datetime.now(UTC)).total_seconds()
    return min(_LONGEST_ASKED, asked) if asked > 0 else None


def _reason(response: httpx.Response) -> str:
    """What an error's body says, as far as it is short."""
    if response.is_success:
        return ""
    try:
        told = response.json()
    except (ValueError, RecursionError):
        return ""
    error = told.get("error") if isinstance(told, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return f", {' '.join(said.split())[:200]!r}" if isinstance(said, str) and said else ""
