"""Runs one answer: prompt, sampling and demands in, block events out.

The engine writes what the grammar in the sampling allows, the splitter finds thought and calls in
it, the writer makes blocks of them.

Closing the generator aborts the engine's request; the engine raises `EngineError` when it
cannot go on, and that passes through: a failure never looks like a normal end.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from senryu.server.conversation.messages import Demands, Sampling, StopReason, Usage
from senryu.server.conversation.signing import Signer
from senryu.server.engine.base import EngineError, FinishReason, Generating
from senryu.server.engine.patience import Patient

from .accounting import input_usage
from .blocks import BlockEvent, TurnEnded, TurnStarted
from .prompt import Prompt
from .splitter import Splitter
from .writer import BlockWriter

PATIENCE = 3.5
"""Seconds that the beginning of an answer waits for the engine's word on what it found cached. It
comes with the first step, which takes a CPU two seconds. When none comes in time, because others
are before us, the answer begins without, and its end tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer to be written. `message_id` is also the engine's name for the request."""

    message_id: str
    model: str
    prompt: Prompt
    sampling: Sampling
    """Its grammar is the one that the demands make (`grammar.answer_grammar`)."""
    demands: Demands = field(default_factory=Demands)
    """Where they ask for a thought, the prompt ends with its opening mark."""
    signer: Signer | None = None
    """Seals the thoughts; needed where the demands ask for one."""
    cache_minimum: int = 0
    """Tokens that a marked prefix must have to be counted as cached."""

    def sign(self, thought: str) -> str:
        thinking = self.demands.thinking
        assert self.signer, "a turn that thinks has a signer"
        assert thinking, "a turn that is not to think has no thought to sign"
        return self.signer.sign(thought, model=self.model, shown=thinking.shown)

    def usage(self, *, cached: int, block: int) -> Usage:
        """The input counts, once the engine has told what it found cached."""
        return input_usage(
            len(self.prompt),
            self.prompt.marks,
            cached=cached,
            block=block,
            minimum=self.cache_minimum,
        )


async def run_turn(turn: Turn, engine: Generating) -> AsyncGenerator[BlockEvent, None]:
    """The events of the answer, from TurnStarted to TurnEnded.

    The prompt must fit the window (`routes` checks). When prompt and `max_tokens` together do
    not, the answer is as long as there is room and ends with `model_context_window_exceeded`.
    """
    prompt_tokens = len(turn.prompt)
    room = engine.card.window - prompt_tokens
    usage = Usage(input_tokens=prompt_tokens, output_tokens=0)
    asked = turn.sampling.max_tokens
    if room <= 0:
        yield TurnStarted(message_id=turn.message_id, model=turn.model, usage=usage)
        reason = _cut_off(exhausted=not asked)
        yield TurnEnded(stop_reason=reason, stop_sequence=None, usage=usage)
        return

    # The engine cannot write nothing, so a pre-warm writes one token that nobody sees.
    limited = replace(turn.sampling, max_tokens=max(1, min(asked, room)))
    splitter = Splitter(engine.card.dialect, turn.demands)
    writer = BlockWriter(turn.demands, turn.sampling.stop_sequences, turn.sign)
    written = thought = 0
    finish: FinishReason | None = None
    generated = engine.generate(turn.prompt, limited, turn.message_id)
    async with aclosing(Patient(generated)) as events:
        if turn.prompt.marks and (early := await events.first(PATIENCE)) is not None:
            usage = turn.usage(cached=early.cached_tokens, block=engine.card.block)
        yield TurnStarted(message_id=turn.message_id, model=turn.model, usage=usage)
        async for event in events:
            if finish is None and not written:
                usage = turn.usage(cached=event.cached_tokens, block=engine.card.block)
            finish = event.finish
            if not asked:
                continue
            written += len(event.token_ids)
            thinking = splitter.thinking
            pieces = splitter.feed(event.text)
            if thinking:
                answer = len(event.token_ids) * splitter.beyond // max(1, len(event.text))
                thought += len(event.token_ids) - answer
            if finish is not None:
                pieces += splitter.flush(cut=finish is FinishReason.LENGTH)
            for told in writer.write(pieces):
                yield told
            if splitter.done or writer.matched is not None:
                break
    stopped = splitter.done or writer.matched is not None
    if finish is None and not stopped:
        raise EngineError("The engine broke off this request; try it again")
    for told in writer.end():
        yield told
    if writer.matched is not None:
        reason = StopReason.STOP_SEQUENCE
    elif splitter.done or (splitter.called and finish is FinishReason.STOP):
        reason = StopReason.TOOL_USE
    elif finish is FinishReason.STOP and asked:
        reason = StopReason.END_TURN
    else:
        reason = _cut_off(exhausted=written >= asked)
    usage = replace(usage, output_tokens=written, thinking_tokens=thought)
    yield TurnEnded(stop_reason=reason, stop_sequence=writer.matched, usage=usage)


def _cut_off(*, exhausted: bool) -> StopReason:
    """Why an answer that is not complete is no longer: by `max_tokens`, or by the window."""
    return StopReason.MAX_TOKENS if exhausted else StopReason.CONTEXT_WINDOW_EXCEEDED
