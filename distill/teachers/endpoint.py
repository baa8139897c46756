"""A teacher behind an address: any endpoint of the Messages API, or of OpenAI's chat completions.

Comes in: asks. Goes out: answers, of text alone. What the two kinds of endpoint are sent, and how
they answer, stands in `spoken.py`; here is who is asked how often. It refuses to know prompts,
tokens and what becomes of the answers.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import httpx

from senryu.distill.errors import DistillError
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
_LONGEST_WAIT = 60.0
_SECONDS = 300.0  # an answer may wait behind others at the endpoint

# Who is busy, restarting or behind a gateway that gave up. 529 is Anthropic's own "overloaded".
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_HOPELESS = {
    401: "its key is not accepted: set the variable that teacher.key_variable names",
    403: "it does not allow this: check the key and what it may do",
    404: "it has no such address or model: check teacher.url and teacher.model",
}

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
        self._client = httpx.AsyncClient(
            headers=speaks.headers(key),
            timeout=httpx.Timeout(_SECONDS, connect=15.0),
            limits=httpx.Limits(max_connections=self._streams),
            transport=transport,
        )
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

    async def _answer(self, ask: Ask) -> Answer:
        async with self._room:
            told = await self._told(self._speaks.request(ask, self._model))
        if told is None:
            message, reason = Message(role="assistant", content=()), StopReason.END_TURN
        else:
            try:
                message, reason = self._speaks.read(told)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise DistillError(
                    f"{self._url} does not answer in the form of the {self._speaks.name} "
                    f"({type(error).__name__}: {error}): check teacher.api and teacher.url."
                ) from error
            self._answered = True
        return Answer(key=ask.key, message=message, stop_reason=reason)

    async def _told(self, body: dict[str, Any]) -> Any:
        """What the endpoint says; None where it refuses this request, and has taken others."""
        for tried in range(1, TRIES + 1):
            try:
                response = await self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                problem = type(error).__name__ + (f": {error}" if str(error) else "")
                wait = _pause(tried)
            else:
                if response.is_success:
                    return _json(response)
                problem = f"status {response.status_code}{_reason(response)}"
                self._give_up_on(response.status_code, problem)
                if response.status_code not in _PASSING:
                    return None
                wait = _asked_pause(response) or _pause(tried)
            if tried < TRIES:
                await self._sleep(wait)
        raise DistillError(
            f"{self._url} failed {TRIES} times in a row ({problem}): what was answered so far is "
            "kept, so run the same command again later, or with fewer teacher.streams."
        )

    def _give_up_on(self, status: int, problem: str) -> None:
        """Raises DistillError where trying again is no use."""
        if status in _HOPELESS:
            raise DistillError(f"{self._url} refuses with {problem}; {_HOPELESS[status]}.")
        if status not in _PASSING and not self._answered:
            raise DistillError(
                f"{self._url} refuses the first request with {problem}: check teacher.api, "
                "teacher.model and [collect]."
            )


def _address(base: str, path: str) -> str:
    """Bases are given with and without the version at their end."""
    base = base.rstrip("/")
    if base.endswith(path):
        return base
    return base + path.removeprefix("/v1") if base.endswith("/v1") else base + path


def _pause(tried: int) -> float:
    """Twice as long each time, and not all at the same moment."""
    return min(_LONGEST_WAIT, 0.5 * 2.0**tried) * random.uniform(0.5, 1.0)  # noqa: S311


def _asked_pause(response: httpx.Response) -> float | None:
    """How long the endpoint asks us to wait, where it says so in seconds."""
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(_LONGEST_WAIT, asked) if asked > 0 else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except json.JSONDecodeError:
        return {}


def _reason(response: httpx.Response) -> str:
    """What an error's body says, as far as it is short."""
    told = _json(response)
    error = told.get("error") if isinstance(told, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return f", {' '.join(said.split())[:200]!r}" if isinstance(said, str) and said else ""
