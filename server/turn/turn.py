"""Runs one answer: prompt and sampling in, block events out.

Closing the generator aborts the engine's request; the engine raises `EngineError` when it
cannot go on, and that passes through: a failure never looks like a normal end.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from senryu.server.conversation.messages import Sampling, StopReason, Usage
from senryu.server.engine.base import Engine, EngineError, FinishReason

from .blocks import BlockEnded, BlockEvent, TextAdded, TextStarted, TurnEnded, TurnStarted
from .prompt import Prompt
from .splitter import StopScanner


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer to be written. `message_id` is also the engine's name for the request."""

    message_id: str
    model: str
    prompt: Prompt
    sampling: Sampling


async def run_turn(turn: Turn, engine: Engine) -> AsyncGenerator[BlockEvent, None]:
    """The events of the answer, from TurnStarted to TurnEnded.

    The prompt must fit the window (`routes` checks). When prompt and `max_tokens` together do
    not, the answer is as long as there is room and ends with `model_context_window_exceeded`.
    """
    prompt_tokens = len(turn.prompt)
    room = engine.card.window - prompt_tokens
    usage = Usage(input_tokens=prompt_tokens, output_tokens=0)
    yield TurnStarted(message_id=turn.message_id, model=turn.model, usage=usage)
    asked = turn.sampling.max_tokens
    if room <= 0:
        reason = _stop_reason(FinishReason.LENGTH, None, exhausted=not asked)
        yield TurnEnded(stop_reason=reason, stop_sequence=None, usage=usage)
        return

    # The engine cannot write nothing, so a pre-warm writes one token that nobody sees.
    limited = replace(turn.sampling, max_tokens=max(1, min(asked, room)))
    stops = StopScanner(turn.sampling.stop_sequences if asked else ())
    written = 0
    open_block = False
    finish: FinishReason | None = None
    async with aclosing(engine.generate(turn.prompt, limited, turn.message_id)) as events:
        async for event in events:
            written += len(event.token_ids)
            text = stops.feed(event.text)
            if event.finish is not None:
                finish = event.finish
                if stops.matched is None:
                    text += stops.flush()
            if text and asked:
                if not open_block:
                    open_block = True
                    yield TextStarted(0)
                yield TextAdded(0, text)
            if stops.matched is not None:
                break
    if finish is None and stops.matched is None:
        raise EngineError("The engine broke off this request; try it again")
    if open_block:
        yield BlockEnded(0)
    if not asked:
        finish = FinishReason.LENGTH
    yield TurnEnded(
        stop_reason=_stop_reason(finish, stops.matched, exhausted=written >= asked),
        stop_sequence=stops.matched,
        usage=replace(usage, output_tokens=written if asked else 0),
    )


def _stop_reason(
    finish: FinishReason | None, matched: str | None, *, exhausted: bool
) -> StopReason:
    if matched is not None:
        return StopReason.STOP_SEQUENCE
    if finish is FinishReason.STOP:
        return StopReason.END_TURN
    return StopReason.MAX_TOKENS if exhausted else StopReason.CONTEXT_WINDOW_EXCEEDED
