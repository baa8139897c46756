"""The events of one answer, and the fold that makes a whole message of them.

Streaming sends the events one by one; not streaming folds them first. There is no second way
to build an answer. No JSON here but that of a tool's input, which the model itself writes:
`wire.sse` and `wire.responses` spell the events out.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass

from pydantic_core import from_json

from senryu.server.conversation.messages import (
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)


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
class ThinkingStarted:
    """A thinking block opens at `index`."""

    index: int


@dataclass(slots=True)
class ThinkingAdded:
    """More thought of the open block; none comes when it is to stay hidden."""

    index: int
    thinking: str


@dataclass(frozen=True, slots=True)
class ThinkingSigned:
    """The seal of the open thinking block, once, right before it ends."""

    index: int
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUseStarted:
    """A call opens at `index`."""

    index: int
    id: str
    name: str


@dataclass(slots=True)
class ToolInputAdded:
    """More of the open call's input: a piece of JSON text."""

    index: int
    json: str


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


BlockEvent = (
    TurnStarted
    | TextStarted
    | TextAdded
    | ThinkingStarted
    | ThinkingAdded
    | ThinkingSigned
    | ToolUseStarted
    | ToolInputAdded
    | BlockEnded
    | TurnEnded
)

AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole message."""

    message_id: str
    model: str
    blocks: tuple[AnswerBlock, ...]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: Usage


async def fold(events: AsyncIterable[BlockEvent]) -> Answer:
    """The message that a stream of events tells."""
    pieces: list[str] = []
    signature = ""
    opened: TextStarted | ThinkingStarted | ToolUseStarted | None = None
    blocks: list[AnswerBlock] = []
    started: TurnStarted | None = None
    ended: TurnEnded | None = None
    async for event in events:
        match event:
            case TextAdded():
                pieces.append(event.text)
            case ThinkingAdded():
                pieces.append(event.thinking)
            case ToolInputAdded():
                pieces.append(event.json)
            case TextStarted() | ThinkingStarted() | ToolUseStarted():
                opened, pieces, signature = event, [], ""
            case ThinkingSigned():
                signature = event.signature
            case BlockEnded():
                assert opened, "a block that ends has begun"
                blocks.append(_block(opened, "".join(pieces), signature))
            case TurnStarted():
                started = event
            case TurnEnded():
                ended = event
    assert started, "a turn begins with TurnStarted"
    assert ended, "a turn ends with TurnEnded, or raises"
    return Answer(
        message_id=started.message_id,
        model=started.model,
        blocks=tuple(blocks),
        stop_reason=ended.stop_reason,
        stop_sequence=ended.stop_sequence,
        usage=ended.usage,
    )


def _block(
    opened: TextStarted | ThinkingStarted | ToolUseStarted, content: str, signature: str
) -> AnswerBlock:
    match opened:
        case TextStarted():
            return TextBlock(text=content)
        case ThinkingStarted():
            return ThinkingBlock(thinking=content, signature=signature)
        case ToolUseStarted():
            # What `max_tokens` cut off is read as far as it goes, by the official client's parser.
            read = from_json(content, allow_partial=True) if content else {}
            return ToolUseBlock(id=opened.id, name=opened.name, input=read)
