"""Folding a stream of events gives the message that the stream told."""

from collections.abc import AsyncIterator

import pytest

from senryu.server.conversation.messages import StopReason, TextBlock, Usage
from senryu.server.turn.blocks import (
    Answer,
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    TurnEnded,
    TurnStarted,
    fold,
)

STARTED = TurnStarted(message_id="msg_1", model="m", usage=Usage(input_tokens=3, output_tokens=0))
ENDED = TurnEnded(
    stop_reason=StopReason.STOP_SEQUENCE,
    stop_sequence="x",
    usage=Usage(input_tokens=3, output_tokens=4),
)


async def stream(*events: BlockEvent) -> AsyncIterator[BlockEvent]:
    for event in events:
        yield event


async def test_texts_are_joined_by_their_block() -> None:
    answer = await fold(
        stream(
            STARTED,
            TextStarted(0),
            TextAdded(0, "Hel"),
            TextAdded(0, "lo"),
            BlockEnded(0),
            TextStarted(1),
            TextAdded(1, " you"),
            BlockEnded(1),
            ENDED,
        )
    )
    assert answer == Answer(
        message_id="msg_1",
        model="m",
        blocks=(TextBlock(text="Hello"), TextBlock(text=" you")),
        stop_reason=StopReason.STOP_SEQUENCE,
        stop_sequence="x",
        usage=Usage(input_tokens=3, output_tokens=4),
    )


async def test_an_answer_without_text_has_no_blocks() -> None:
    assert (await fold(stream(STARTED, ENDED))).blocks == ()


async def test_a_stream_that_breaks_off_is_no_message() -> None:
    with pytest.raises(AssertionError, match="ends with TurnEnded"):
        await fold(stream(STARTED, TextStarted(0)))
