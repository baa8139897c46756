"""A teacher that runs here, in the server's own engine.

Comes in: asks. Goes out: answers with the tokens that were written and, at each of them, the most
probable ones. Each answer goes through the server's own code, from the prompt to the blocks, so
that the teacher says what the server would have answered, and training tokens are serving tokens.
It refuses to know vLLM, and what becomes of the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from senryu.distill.encode import user_opening
from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import whole_letters
from senryu.server.conversation.messages import (
    Block,
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    ThinkingBlock,
    ToolUseBlock,
)
from senryu.server.conversation.signing import Signer
from senryu.server.engine.base import (
    Engine,
    EngineCard,
    EngineError,
    FinishReason,
    PromptRefused,
    TokenEvent,
)
from senryu.server.turn.blocks import fold
from senryu.server.turn.grammar import answer_grammar, form_on_trial
from senryu.server.turn.holding import too_much
from senryu.server.turn.prompt import ChatTokenizer, Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn

from .base import Answer, Ask, TeacherCard, TopK
from .side_by_side import side_by_side


class EngineTeacher:
    """Asks an open engine, `streams` answers at once. It owns the engine.

    With an engine that gives no distributions, such as the scripted one, or without `top_k`,
    answers are text only.
    """

    def __init__(
        self, engine: Engine, *, folder: Path | None, top_k: int = 32, streams: int = 64
    ) -> None:
        self._engine = engine
        self._top_k = top_k
        self._streams = max(1, streams)
        self._room = asyncio.Semaphore(self._streams)
        self._numbers = count()
        self._signer = Signer(b"of answers that nobody sends back")
        self.card = TeacherCard(
            name=engine.card.model,
            folder=folder,
            distributions=top_k > 0,
            thinks=engine.card.dialect.thought is not None,
            dialect=engine.card.dialect.name,
        )

    def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
        return side_by_side(asks, self._answer, self._streams)

    async def user_turn(
        self, conversation: Conversation | None, *, system: str, sampling: Sampling, seed: int
    ) -> str | None:
        tokenizer, dialect = self._engine.tokenizer, self._engine.card.dialect
        try:
            ids, end = user_opening(conversation, system, tokenizer, dialect)
        except ValueError:  # the template refuses what came before
            return None
        prompt = Prompt(token_ids=ids)
        free = replace(sampling, grammar=None, top_logprobs=0)
        text = ""
        with suppress(PromptRefused):
            async with self._room, aclosing(self._events(prompt, free)) as events:
                async for event in events:
                    text += event.text
                    if end and end in text:  # of models that go on behind the user's turn
                        return _usable(text.partition(end)[0])
                    if event.finish is FinishReason.STOP:
                        return _usable(text)
        return None

    async def close(self) -> None:
        await self._engine.close()

    async def _answer(self, ask: Ask) -> Answer:
        card = self._engine.card
        thinking = ask.demands.thinking is not None
        try:
            prompt = build_prompt(
                ask.conversation, self._engine.tokenizer, card.dialect, thinking=thinking
            )
        except ValueError as refusal:
            return _nothing(ask, StopReason.END_TURN, f"refused by the chat template, {refusal}")
        allowed = min(ask.sampling.max_tokens, card.window - len(prompt))
        if allowed <= 0 or prompt.images:
            why = "with images" if prompt.images else "longer than the teacher's window"
            return _nothing(ask, StopReason.CONTEXT_WINDOW_EXCEEDED, why)
        async with self._room:
            demands = await self._held(ask.demands)
            sampling = replace(
                ask.sampling,
                max_tokens=allowed,
                stop_sequences=(),
                top_logprobs=self._top_k,
                grammar=answer_grammar(card.dialect, demands, allowed=allowed),
            )
            try:
                events = [event async for event in self._events(prompt, sampling)]
            except PromptRefused as refusal:
                why = f"refused by the engine, {refusal}"
                return _nothing(ask, StopReason.END_TURN, why)
        if not events:
            return _nothing(ask, StopReason.END_TURN, "empty")
        # The server stops reading behind a call. The student learns its tail and the end of the
        # turn too, so the answer is written to its end first and then read.
        turn = Turn(
            message_id=ask.key,
            model=card.model,
            prompt=prompt,
            sampling=sampling,
            demands=demands,
            signer=self._signer,
        )
        told = await fold(run_turn(turn, _Recorded(self._engine, events)))
        blocks = tuple(map(_stored, told.blocks))
        token_ids, top = _kept(events)
        return Answer(
            key=ask.key,
            message=Message(role="assistant", content=blocks),
            stop_reason=told.stop_reason,
            prompt_ids=tuple(prompt.token_ids) if top else (),
            token_ids=token_ids,
            top=top,
        )

    async def _events(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[TokenEvent, None]:
        """Raises PromptRefused where the engine refuses this prompt alone, else DistillError."""
        room = self._engine.card.window - len(prompt)
        if room <= 0:
            raise PromptRefused("it is longer than the window")
        limited = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        name = f"ask-{next(self._numbers)}"
        try:
            async with aclosing(self._engine.generate(prompt, limited, name)) as events:
                async for event in events:
                    yield event
        except PromptRefused:
            raise
        except EngineError as error:
            raise DistillError(
                f"The teacher {self.card.name} broke off: {error}; what it has answered is kept, "
                "so run the same command again."
            ) from error

    async def _held(self, demands: Demands) -> Demands:
        """With any object as the input of tools whose schemas the engine cannot hold it to."""
        heavy = {each.name for each in demands.callable_tools if too_much(each.input_schema)}
        demands = _loosened(demands, heavy)
        form = form_on_trial(self._engine.card.dialect, demands)
        try:
            refused = form is not None and await self._engine.refusal(form) is not None
        except EngineError as error:
            raise DistillError(f"The teacher cannot try its grammar: {error}.") from error
        return _loosened(demands, {each.name for each in demands.callable_tools} if refused else ())


@dataclass(frozen=True, slots=True)
class _Recorded:
    """An engine that says again what another one said."""

    engine: Engine
    events: Sequence[TokenEvent]

    @property
    def card(self) -> EngineCard:
        return self.engine.card

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.engine.tokenizer

    def look(self, prompt: Prompt) -> Prompt:
        return prompt

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        for event in self.events:
            yield event

    async def refusal(self, grammar: str) -> str | None:
        return None

    async def healthy(self) -> bool:
        return True

    async def close(self) -> None:
        return None


def _kept(events: Sequence[TokenEvent]) -> tuple[tuple[int, ...], TopK | None]:
    """The tokens of an answer with the most probable ones; neither, where an engine gave none."""
    import numpy as np

    token_ids = tuple(token for event in events for token in event.token_ids)
    ids = [place for event in events if event.top for place in event.top.ids]
    logprobs = [place for event in events if event.top for place in event.top.logprobs]
    if not token_ids or len(ids) != len(token_ids):
        return (), None
    top = TopK(ids=np.asarray(ids, np.int32), logprobs=np.asarray(logprobs, np.float32))
    return token_ids, top


def _loosened(demands: Demands, names: Iterable[str]) -> Demands:
    heavy = set(names)
    tools = tuple(
        replace(tool, enforced=False) if tool.name in heavy else tool
        for tool in demands.callable_tools
    )
    return replace(demands, callable_tools=tools)


def _stored(block: Block) -> Block:
    """Without the seal, which nobody will check; and a call's input, which the model spells as
    JSON, without the halves of letters that JSON can spell."""
    match block:
        case ThinkingBlock():
            return replace(block, signature="")
        case ToolUseBlock():
            return replace(block, input=whole_letters(block.input))
        case _:
            return block


def _nothing(ask: Ask, reason: StopReason, why: str) -> Answer:
    """The answer to what cannot be asked."""
    nothing = Message(role="assistant", content=())
    return Answer(key=ask.key, message=nothing, stop_reason=reason, fault=why)


def _usable(text: str) -> str | None:
    """What somebody may have written; None for nothing, for bytes that are no letters, and for
    what has no word in it."""
    text = text.strip()
    broken = "\ufffd" in text or not any(letter.isalnum() for letter in text)
    return None if broken else text
