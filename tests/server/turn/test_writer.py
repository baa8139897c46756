"""The blocks of an answer: one after the other, none empty, the same however it was cut."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Demands, Thinking, Tool
from senryu.server.turn.blocks import (
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    ThinkingAdded,
    ThinkingSigned,
    ThinkingStarted,
    ToolInputAdded,
    ToolUseStarted,
)
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.splitter import Splitter
from senryu.server.turn.writer import BlockWriter

TOOLS = (
    Tool(name="ls", input_schema={}),
    Tool(name="click", input_schema={}),
)
CALLING = Demands(callable_tools=TOOLS)
THINKING = Demands(callable_tools=TOOLS, thinking=Thinking())
HIDDEN = Demands(callable_tools=TOOLS, thinking=Thinking(shown=False))
CALL = '<tool_call>\n{"name": "ls", "arguments": {"a": [1, "x"]}}\n</tool_call>'
CLICK = '<tool_call>\n{"name": "click", "arguments": {}}\n</tool_call>'


def sealed(thought: str) -> str:
    return f"sealed:{thought}"


def events(
    pieces: Iterable[str], demands: Demands = CALLING, stops: tuple[str, ...] = ()
) -> list[BlockEvent]:
    splitter = Splitter(HermesDialect(thought=THOUGHT), demands)
    writer = BlockWriter(demands, stops, sealed)
    told: list[BlockEvent] = []
    for piece in pieces:
        told += writer.write(splitter.feed(piece))
        if splitter.done or writer.matched is not None:
            break
    else:
        told += writer.write(splitter.flush(cut=False))
    return told + writer.end()


def blocks(told: Iterable[BlockEvent]) -> list[list[str]]:
    """Each block as its kind and its content."""
    found: list[list[str]] = []
    for event in told:
        match event:
            case TextStarted():
                found.append(["text", ""])
            case ThinkingStarted():
                found.append(["thinking", "", ""])
            case ToolUseStarted():
                found.append([event.name, ""])
            case TextAdded():
                found[-1][1] += event.text
            case ThinkingAdded():
                found[-1][1] += event.thinking
            case ToolInputAdded():
                found[-1][1] += event.json
            case ThinkingSigned():
                found[-1][2] = event.signature
            case _:
                pass
    return found


answers = st.lists(
    st.sampled_from(
        ["a", "STOP", "ST", " ", "\n", "</think>", "<tool_call>", "</tool", CALL, CLICK]
    ),
    max_size=8,
).map("".join)
demanded = st.sampled_from([CALLING, THINKING, HIDDEN, Demands(), Demands(thinking=Thinking())])
stop_sequences = st.sampled_from([(), ("STOP",), ("\n",), ("<", "a\n")])


@given(answers, demanded, stop_sequences, st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_gives_the_same_blocks(
    text: str, demands: Demands, stops: tuple[str, ...], cuts: list[int]
) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    whole = blocks(events([text], demands, stops))
    assert blocks(events(pieces, demands, stops)) == whole
    assert blocks(events(text, demands, stops)) == whole


@given(answers, demanded, stop_sequences)
def test_blocks_follow_each_other_and_none_is_empty(
    text: str, demands: Demands, stops: tuple[str, ...]
) -> None:
    """What the official clients' accumulators ask for: one block at a time, counted from 0."""
    count, is_open, added = 0, False, 0
    for event in events(text, demands, stops):
        if isinstance(event, TextStarted | ThinkingStarted | ToolUseStarted):
            assert (event.index, is_open) == (count, False)
            is_open, added = True, 0
        elif isinstance(event, BlockEnded):
            assert (event.index, is_open) == (count, True)
            assert added
            is_open, count = False, count + 1
        else:
            assert not isinstance(event, TextAdded) or event.text
            added += 1
    assert not is_open


@given(answers, demanded)
def test_a_text_block_says_something(text: str, demands: Demands) -> None:
    """A client that sent back white space alone would be refused."""
    told = blocks(events([text], demands))
    assert all(content.strip() for kind, content, *_ in told if kind == "text")


def test_white_space_before_a_call_goes_and_at_the_end_stays() -> None:
    assert blocks(events(["Look:", " ", "\n", CALL])) == [
        ["text", "Look:"],
        ["ls", '{"a": [1, "x"]}'],
    ]
    assert blocks(events(["Done.", "\n"])) == [["text", "Done.\n"]]


@pytest.mark.parametrize("text", ["\n\n" + CALL, CALL + "\n", CALL + " \n", "\n" + CALL + "\n"])
def test_white_space_alone_opens_no_block(text: str) -> None:
    assert blocks(events(text)) == [["ls", '{"a": [1, "x"]}']]
    assert blocks(events(" \n")) == []


def test_a_call_has_an_id_of_its_own() -> None:
    opened = [event for event in events([CALL, "\n", CLICK]) if isinstance(event, ToolUseStarted)]
    assert [event.name for event in opened] == ["ls", "click"]
    assert len({event.id for event in opened}) == 2
    assert all(event.id.startswith("toolu_") for event in opened)


def test_a_thought_is_signed_once_right_before_it_ends() -> None:
    assert events(["Hm", ".\n", "</think>", "\n\n", "Hi"], THINKING) == [
        ThinkingStarted(0),
        ThinkingAdded(0, "Hm"),
        ThinkingAdded(0, ".\n"),
        ThinkingSigned(0, "sealed:Hm.\n"),
        BlockEnded(0),
        TextStarted(1),
        TextAdded(1, "Hi"),
        BlockEnded(1),
    ]


def test_a_hidden_thought_is_signed_and_not_told() -> None:
    assert events(["Hm.", "</think>", "Hi"], HIDDEN)[:3] == [
        ThinkingStarted(0),
        ThinkingSigned(0, "sealed:Hm."),
        BlockEnded(0),
    ]


def test_a_thought_that_is_cut_off_is_signed_too() -> None:
    assert events(["Hm."], THINKING)[-2:] == [ThinkingSigned(0, "sealed:Hm."), BlockEnded(0)]


@pytest.mark.parametrize("thought", ["", "\n", " \n\n"])
def test_a_thought_of_nothing_is_no_block(thought: str) -> None:
    assert blocks(events([thought, "</think>\n\nHi"], THINKING)) == [["text", "Hi"]]


def test_a_stop_sequence_stops_texts_and_neither_thoughts_nor_inputs() -> None:
    call = CALL.replace("x", "STOP")
    assert blocks(events(["STOP?</think>", "So ", "STOP it"], THINKING, ("STOP",))) == [
        ["thinking", "STOP?", "sealed:STOP?"],
        ["text", "So "],
    ]
    assert blocks(events(["STO", call], stops=("STOP",))) == [
        ["text", "STO"],
        ["ls", '{"a": [1, "STOP"]}'],
    ]


def test_a_stop_sequence_of_white_space_is_found_before_a_call() -> None:
    assert blocks(events(["Look:\n", CALL], stops=("\n",))) == [["text", "Look:"]]
