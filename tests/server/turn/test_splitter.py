"""Thoughts and calls are found however an answer is cut, and no mark is shown."""

import json
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Demands, Thinking, Tool, ToolChoice
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.dialects.llama3 import Llama3Dialect
from senryu.server.turn.splitter import Channel, Piece, Splitter

HERMES = HermesDialect(thought=THOUGHT)
LLAMA = Llama3Dialect(thought=THOUGHT)
TOOLS = (Tool(name="ls", input_schema={}), Tool(name="get_weather", input_schema={}))
CALLING = Demands(callable_tools=TOOLS)
THINKING = Demands(callable_tools=TOOLS, thinking=Thinking())


def call(name: str = "ls", written: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def cut_at(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def split(
    pieces: list[str], demands: Demands = CALLING, dialect: Dialect = HERMES, *, cut: bool = False
) -> list[Piece]:
    """The pieces of an answer, those of a channel joined."""
    splitter = Splitter(dialect, demands)
    found: list[Piece] = []
    for piece in pieces:
        found += splitter.feed(piece)
    found += splitter.flush(cut=cut)
    joined: list[Piece] = []
    for channel, run in groupby(found, lambda piece: piece[0]):
        texts = [text for _, text in run]
        whole = channel in (Channel.CALL, Channel.END)
        joined += [(channel, text) for text in (texts if whole else ["".join(texts)])]
    return joined


def calls_of(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Name and input of each call."""
    names = [text for channel, text in pieces if channel is Channel.CALL]
    inputs = [text for channel, text in pieces if channel is Channel.INPUT]
    return list(zip(names, inputs, strict=True))


def text_of(pieces: list[Piece]) -> str:
    return "".join(text for channel, text in pieces if channel is Channel.TEXT)


inputs = st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers()).map(json.dumps)
calls = st.tuples(st.sampled_from(["ls", "get_weather"]), inputs)
cuts = st.lists(st.integers(0, 300), max_size=30)
# All that answers are made of, right and wrong; no two make a mark by standing together.
fragments = st.sampled_from(
    [
        *("a", " ", "\n", "{", "}", '"', '{"a": 1}', "{}"),
        *("<tool_call>", "</tool_call>", "</think>", "<", "<tool_c", "</too", "</thi"),
        *('{"name": "ls", "arguments": ', '{"name": "rm", "arguments": '),
        *(call(), call("get_weather", '{"a": "x"}')),
        *(call("rm"), call("ls", "[]"), call("ls", '{"a": 1')),
    ]
)
answers = st.lists(fragments, max_size=8).map("".join)
demanded = st.sampled_from(
    [
        CALLING,
        THINKING,
        Demands(),
        Demands(thinking=Thinking()),
        Demands(callable_tools=TOOLS, tool_choice=ToolChoice(parallel=False)),
    ]
)


@given(answers, cuts, demanded, st.booleans(), st.sampled_from([HERMES, LLAMA]))
def test_any_cut_of_any_answer_gives_the_same_pieces(
    text: str, cuts: list[int], demands: Demands, cut: bool, dialect: Dialect
) -> None:
    pieces = split(cut_at(text, cuts), demands, dialect, cut=cut)
    assert pieces == split([text], demands, dialect, cut=cut)
    assert pieces == split(list(text), demands, dialect, cut=cut)


@given(answers, demanded)
def test_no_mark_of_a_call_is_ever_shown_where_calls_are_possible(
    text: str, demands: Demands
) -> None:
    shown = text_of(split(list(text), demands))
    if demands.callable_tools:
        assert "<tool_call>" not in shown
        assert "</tool_call>" not in shown


@given(st.text(st.sampled_from("ab <{")), st.lists(calls, min_size=1, max_size=3), cuts)
def test_calls_are_found_behind_a_text_and_their_inputs_add_up(
    text: str, wanted: list[tuple[str, str]], cuts: list[int]
) -> None:
    answer = text + "\n".join(call(*each) for each in wanted)
    pieces = split(cut_at(answer, cuts))
    assert text_of(pieces) == text
    assert calls_of(pieces) == wanted


@given(calls, cuts)
def test_a_dialect_whose_mark_is_json_is_read_as_well(
    wanted: tuple[str, str], cuts: list[int]
) -> None:
    marks = LLAMA.calls
    answer = f"{marks.opening}{marks.head_of(wanted[0])}{wanted[1]}{marks.tail}"
    assert calls_of(split(cut_at(answer, cuts), dialect=LLAMA)) == [wanted]


@given(st.lists(fragments.filter(lambda text: '"arguments"' not in text)).map("".join), cuts)
def test_of_an_answer_without_a_call_nothing_is_lost_but_the_marks(
    text: str, cuts: list[int]
) -> None:
    """Text in the shape of a call that names no tool of ours is text like any other."""
    said = text_of(split(cut_at(text, cuts)))
    assert said == text.replace("<tool_call>", "").replace("</tool_call>", "")


@given(answers, cuts)
@example('{"name": "', [])
@example('{"name": "Bob", "age": 3}', [])
def test_a_mark_that_is_json_is_not_lost_where_there_is_no_call(text: str, cuts: list[int]) -> None:
    pieces = split(cut_at(text, cuts), dialect=LLAMA)
    if not calls_of(pieces):
        assert text_of(pieces) == text


@given(cuts)
def test_a_mark_that_is_json_opens_a_call_only_where_the_answer_begins(cuts: list[int]) -> None:
    text = 'It is {"name": "ls", "parameters": {}} in JSON.'
    for before in ("", " ", "{", '{"name": 1} '):
        pieces = split(cut_at(before + text, cuts), dialect=LLAMA)
        assert text_of(pieces) == before + text
        assert not calls_of(pieces)


@given(answers, cuts)
def test_without_tools_an_answer_is_plain_text(text: str, cuts: list[int]) -> None:
    for demands in (
        Demands(),
        Demands(callable_tools=TOOLS, tool_choice=ToolChoice(mode="none")),
    ):
        assert text_of(split(cut_at(text, cuts), demands)) == text


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("<tool_call>Hello</tool_call> you", "Hello you"),
        ("<tool_call>" + "long " * 50, "long " * 50),
        ("<tool_call>", ""),
        (call("rm"), '\n{"name": "rm", "arguments": {}}\n'),
        (call("ls", "[]"), '\n{"name": "ls", "arguments": []}\n'),
        ('<tool_call>{"arguments": {}, "name": "ls"}', '{"arguments": {}, "name": "ls"}'),
        ("a < b <tool", "a < b <tool"),
    ],
)
def test_a_call_that_is_none_is_text_without_its_tags(answer: str, shown: str) -> None:
    assert split([answer]) == ([(Channel.TEXT, shown)] if shown else [])


def test_a_call_that_is_none_hides_no_call_behind_it() -> None:
    pieces = split(["<tool_call>oh " + call()])
    assert (text_of(pieces), calls_of(pieces)) == ("oh ", [("ls", "{}")])


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('{"a": 1, oops', '{"a": 1, '),
        ('{"a": "\\q"}', '{"a": "'),
        ('{"a":' * 140 + "1", '{"a":' * 128),
    ],
)
def test_an_input_that_goes_wrong_is_kept_as_far_as_it_is_right_and_ends_the_answer(
    written: str, kept: str
) -> None:
    splitter = Splitter(HERMES, CALLING)
    found = splitter.feed(call("ls", written) + call())
    assert (calls_of(found), text_of(found)) == ([("ls", kept)], "")
    assert found[-1] == (Channel.END, "")
    assert splitter.called
    assert splitter.done
    assert splitter.flush(cut=False) == []


def test_white_space_around_an_input_is_no_part_of_it() -> None:
    (found,) = calls_of(split(['<tool_call>{"name":"ls" , "arguments":  {}  }</tool_call>']))
    assert found == ("ls", "{}")


@pytest.mark.parametrize(
    ("answer", "pieces"),
    [
        ("Hi <tool_c", [(Channel.TEXT, "Hi ")]),
        ("1 <", [(Channel.TEXT, "1 <")]),
        ("<tool_call>", []),
        ('<tool_call>\n{"name": "ls"', []),
        ('<tool_call>\n{"name": "ls", "arguments": ', []),
        (
            '<tool_call>\n{"name": "ls", "arguments": {"a": "x',
            [(Channel.CALL, "ls"), (Channel.INPUT, '{"a": "x')],
        ),
    ],
)
def test_of_a_call_that_was_cut_off_what_names_no_tool_is_dropped(
    answer: str, pieces: list[Piece]
) -> None:
    assert split([answer], cut=True) == pieces


def test_half_a_mark_is_shown_where_the_answer_ends_with_it_and_dropped_where_it_was_cut() -> None:
    for demands, channel, half in (
        (CALLING, Channel.TEXT, "<tool_c"),
        (CALLING, Channel.TEXT, "</tool"),
        (THINKING, Channel.THOUGHT, "</thi"),
    ):
        assert split(["Hm " + half], demands, cut=False) == [(channel, "Hm " + half)]
        assert split(["Hm " + half], demands, cut=True) == [(channel, "Hm ")]


@pytest.mark.parametrize("behind", ["And now?", " " * 300, call("rm"), call()[:-3] + "x"])
def test_behind_a_call_there_are_only_calls(behind: str) -> None:
    splitter = Splitter(HERMES, CALLING)
    found = splitter.feed(call() + "\n" + behind + "." * 300)
    assert splitter.done
    assert [text for channel, text in found if channel is Channel.TEXT] == []


def test_where_only_one_call_is_wanted_the_answer_is_done_with_it() -> None:
    choice = ToolChoice(parallel=False)
    splitter = Splitter(HERMES, Demands(callable_tools=TOOLS, tool_choice=choice))
    assert calls_of(splitter.feed(call()[:-14])) == [("ls", "{}")]
    assert splitter.done
    assert splitter.feed(call()) == []


def test_a_family_that_calls_once_is_done_after_a_call() -> None:
    splitter = Splitter(LLAMA, CALLING)
    splitter.feed('{"name": "ls", "parameters": {}}')
    assert splitter.done


@pytest.mark.parametrize(
    ("answer", "pieces"),
    [
        ("Hm.\n</think>\n\nHi", [("THOUGHT", "Hm.\n"), ("END", ""), ("TEXT", "Hi")]),
        ("</think>Hi", [("END", ""), ("TEXT", "Hi")]),
        ("Hm.</think>\n\n" + call(), [("THOUGHT", "Hm."), ("END", ""), ("CALL", "ls")]),
        ("Hm.</thi", [("THOUGHT", "Hm.</thi")]),
        ("Hm. <tool_call>", [("THOUGHT", "Hm. <tool_call>")]),
    ],
)
def test_a_thought_ends_at_its_mark_and_the_answer_begins_behind_the_empty_lines(
    answer: str, pieces: list[Any]
) -> None:
    found = [(channel.name, text) for channel, text in split(list(answer), THINKING)]
    assert found[: len(pieces)] == pieces


def test_one_knows_while_it_thinks() -> None:
    splitter = Splitter(HERMES, THINKING)
    thinking = []
    for piece in ["Hm.", "</thi", "nk>", "Hi"]:
        thinking.append(splitter.thinking)
        splitter.feed(piece)
    assert thinking == [True, True, True, False]
