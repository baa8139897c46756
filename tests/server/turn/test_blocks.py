"""Folding a stream of events gives the message that the stream told."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from senryu.server.conversation.messages import (
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
)
from senryu.server.turn.blocks import (
    Answer,
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    ThinkingAdded,
    ThinkingSigned,
    ThinkingStarted,
    ToolInputAdded,
    ToolUseStarted,
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


@pytest.mark.parametrize("pieces", [["H", "m."], []])
async def test_a_thought_keeps_its_seal_and_a_hidden_one_has_nothing_else(
    pieces: list[str],
) -> None:
    answer = await fold(
        stream(
            STARTED,
            ThinkingStarted(0),
            *(ThinkingAdded(0, piece) for piece in pieces),
            ThinkingSigned(0, "c2VhbA=="),
            BlockEnded(0),
            ENDED,
        )
    )
    assert answer.blocks == (ThinkingBlock(thinking="".join(pieces), signature="c2VhbA=="),)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"path": "/", "all": true}', {"path": "/", "all": True}),
        ("{}", {}),
        ("", {}),
        ("{", {}),
        ('{"path": "/", "dep', {"path": "/"}),
        ('{"path": "/ho', {}),
        ('{"paths": ["a", "b', {"paths": ["a"]}),
        ('{"depth": 1', {"depth": 1}),
    ],
)
async def test_an_input_is_read_as_far_as_it_was_written(
    written: str, read: dict[str, Any]
) -> None:
    answer = await fold(
        stream(
            STARTED,
            ToolUseStarted(index=0, id="toolu_1", name="ls"),
            *(ToolInputAdded(0, letter) for letter in written),
            BlockEnded(0),
            ENDED,
        )
    )
    call = ToolUseBlock(id="toolu_1", name="ls", input=read)
    assert answer.blocks == (call,)
