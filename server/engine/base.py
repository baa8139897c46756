"""The engine seam: a few coroutines and a card. Everything above it is engine-free.

An engine takes token ids and knows no chat template, no HTTP and no Messages API. There are
two: vLLM, and the scripted one for those who work on everything above this line.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from senryu.server.conversation.messages import Sampling
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.prompt import ChatTokenizer, Prompt


class EngineError(Exception):
    """The engine cannot serve, or broke off. The text is one sentence for the user."""


class PromptRefused(EngineError):
    """The engine will not read this prompt: the request is at fault, not the engine."""


class EngineGone(EngineError):
    """The engine has died. Where it is opened again, it is there in about so many `seconds`."""

    def __init__(self, seconds: int | None = None) -> None:
        remedy = "restart the server" if seconds is None else "it starts again; try again shortly"
        super().__init__(f"The engine has stopped; {remedy}")
        self.seconds = seconds


class FinishReason(Enum):
    """Why the engine stopped of itself."""

    STOP = auto()
    LENGTH = auto()


@dataclass(slots=True)
class TopTokens:
    """The most probable tokens at the place of each token of an event, most probable first.

    Of the model's own distribution: temperature and cuts change nothing in it. Where a grammar
    holds the answer, the tokens that it forbids have the logarithm -inf, and the others share all
    that is probable.
    """

    ids: list[list[int]]
    logprobs: list[list[float]]
    """Natural logarithms."""


@dataclass(slots=True)  # one is made for each token: frozen would triple its cost
class TokenEvent:
    """What one engine step adds. `text` may be empty while a character is incomplete."""

    token_ids: Sequence[int]
    text: str
    finish: FinishReason | None = None
    # Prompt tokens that the engine found in its KV cache.
    cached_tokens: int = 0
    # Only where the sampling asks for it.
    top: TopTokens | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that was chosen at start, and why: the banner and `doctor` print these."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCard:
    """What an open engine says about itself."""

    model: str
    """The id under which the model is served."""
    window: int
    """Tokens of prompt and answer together."""
    created_at: str
    """RFC 3339 time of the model's making; the epoch when unknown."""
    dialect: Dialect
    """How the model spells tools and thinking."""
    sees: bool = False
    """Whether it takes images."""
    choices: tuple[Choice, ...] = ()
    block: int = 32
    """Tokens in one block of its KV cache: prefixes are found again in whole blocks."""
    seats: int = 1_000
    """Requests that it works on at one time."""


class Generating(Protocol):
    """What an answer is made with: an engine, or a place in one."""

    @property
    def card(self) -> EngineCard: ...

    def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        """Token events until the one with a finish reason; of a long prompt with marks the first
        may have no tokens yet, and tells what was found cached. Closing the generator aborts the
        request. Raises EngineError."""
        ...


class Engine(Generating, Protocol):
    """An open engine."""

    @property
    def tokenizer(self) -> ChatTokenizer: ...

    def look(self, prompt: Prompt) -> Prompt:
        """The prompt with each of its images read: as many tokens as it is to the model stand in
        its place, and `generate` takes what is given here. It takes its time: call it in a worker
        thread. Raises EngineError."""
        ...

    async def refusal(self, grammar: str) -> str | None:
        """Why no answer can be held to this structural tag, as the end of a sentence; None when one
        can. Asking may take a second and disturbs nobody. Raises EngineError when it cannot be
        found out."""
        ...

    async def healthy(self) -> bool:
        """Whether a request could be served now."""
        ...

    def back_in(self) -> int | None:
        """Seconds until it is there again, once it has died; None when nobody opens it again."""
        ...

    async def close(self) -> None:
        """Ends the engine and every process of it."""
        ...
