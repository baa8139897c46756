"""The events of one answer, and the fold that makes a whole message of them.

Streaming sends the events one by one; not streaming folds them first. There is no second way
to build an answer. No JSON here: `wire.sse` and `wire.responses` spell these out.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass

from senryu.server.conversation.messages import StopReason, TextBlock, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """The prompt is admitted and counted; nothing is written yet."""

    message_id: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TextStarted:
    """A text block opens at `index`."""

    index: int


@dataclass(slots=True)  # one is made for each token: frozen would triple its cost
class TextAdded:
    """More text of the open block."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class BlockEnded:
    """The open block is complete."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """The answer is complete. `stop_sequence` is the one that matched, if one did."""

    stop_reason: StopReason
    stop_sequence: str | None
    usage: Usage


BlockEvent = TurnStarted | TextStarted | TextAdded | BlockEnded | TurnEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole message."""

    message_id: str
    model: str
    blocks: tuple[TextBlock, ...]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: Usage


async def fold(events: AsyncIterable[BlockEvent]) -> Answer:
    """The message that a stream of events tells."""
    texts: list[list[str]] = []
    started: TurnStarted | None = None
    ended: TurnEnded | None = None
    async for event in events:
        match event:
            case TextAdded():
                texts[event.index].append(event.text)
            case TextStarted():
                texts.append([])
            case TurnStarted():
                started = event
            case TurnEnded():
                ended = event
            case BlockEnded():
                pass
    assert started, "a turn begins with TurnStarted"
    assert ended, "a turn ends with TurnEnded, or raises"
    return Answer(
        message_id=started.message_id,
        model=started.model,
        blocks=tuple(TextBlock(text="".join(pieces)) for pieces in texts),
        stop_reason=ended.stop_reason,
        stop_sequence=ended.stop_sequence,
        usage=ended.usage,
    )
