"""What the scanner gives out is strict JSON, the same however the text is cut."""

import json
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json

from senryu.server.turn.json_scanner import JsonScanner

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Letters that are written as escapes, and those that JSON takes as they are.
    | st.text(st.sampled_from('ab"\\/\n\t\x00\x1f\x7fé川🌸\u2028') | st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=4)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A JSON object, as one of the ways in which it can be written."""
    indent = draw(st.sampled_from([None, 0, 2]))
    return json.dumps(draw(objects), ensure_ascii=draw(st.booleans()), indent=indent)


def scan(text: str, cuts: list[int]) -> tuple[list[str], str, JsonScanner]:
    """What was given out piece by piece, and what was left when it ended or broke."""
    scanner = JsonScanner()
    given: list[str] = []
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    for start, end in pairwise(bounds):
        piece, rest = scanner.feed(text[start:end])
        given.append(piece)
        if scanner.ended or scanner.broken:
            return given, rest + text[end:], scanner
    return given, "", scanner


cuts = st.lists(st.integers(0, 60), max_size=10)
# Letters of which a JSON object may be made, and with which it may go wrong.
scribbles = st.text(st.sampled_from('{}[]:,"\\u d8dcf012-+.eEtrunlfas\n\x01é'), max_size=30)


@given(written(), cuts, st.text(max_size=5))
def test_a_written_object_is_given_out_as_it_is_and_what_follows_is_left(
    text: str, cuts: list[int], behind: str
) -> None:
    given, rest, scanner = scan(text + behind, cuts)
    assert ("".join(given), rest, scanner.ended) == (text, behind, True)


@pytest.mark.parametrize("number", ["1e999", "-1.5E+400", "123456789e301"])
def test_a_number_beyond_all_floats_is_the_largest_of_them(number: str) -> None:
    """Else one client reads an infinity, and JSON has no word for that to send it back."""
    given, _, scanner = scan(f'{{"a": {number}}}', [9])
    most = sys.float_info.max
    assert json.loads("".join(given)) == {"a": -most if number.startswith("-") else most}
    assert scanner.ended


@given(scribbles.map("{".__add__), cuts)
@example('{"\\ud83d\\ude00', [8])
@example('{"\\ud83d\\u0041"}', [10])
def test_any_cut_gives_the_same(text: str, cuts: list[int]) -> None:
    given, rest, scanner = scan(text, cuts)
    whole, all_rest, at_once = scan(text, [])
    assert ("".join(given), rest) == ("".join(whole), all_rest)
    assert (scanner.ended, scanner.broken) == (at_once.ended, at_once.broken)


@given(scribbles.map('{"a": '.__add__), cuts)
def test_what_was_given_out_can_be_read_at_every_moment(text: str, cuts: list[int]) -> None:
    """By the parser of the official client, which reads after each delta and raises."""
    given, _, scanner = scan(text, cuts)
    for count in range(1, len(given) + 1):
        if so_far := "".join(given[:count]):
            from_json(so_far, allow_partial=True)
    if scanner.ended:
        json.loads("".join(given))


@given(scribbles.map('{"a": '.__add__))
def test_what_breaks_an_object_is_left_as_it_was(text: str) -> None:
    _, rest, scanner = scan(text, [])
    if scanner.broken:
        assert text.endswith(rest)
        assert rest


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ('{"a": "\x0f\n"}', '{"a": "\\u000f\\u000a"}'),
        ('{"a": "\\ud83d"}', '{"a": "\\ufffd"}'),
        ('{"a": "\\ude00"}', '{"a": "\\ufffd"}'),
        ('{"a": "\\ud83d\\n"}', '{"a": "\\ufffd\\n"}'),
        ('{"a": "\\ud83d\\ud83d\\ude00"}', '{"a": "\\ufffd\\ud83d\\ude00"}'),
    ],
)
def test_what_strict_readers_refuse_in_a_string_is_respelt(text: str, given: str) -> None:
    said, _, scanner = scan(text, list(range(60)))
    assert "".join(said) == given
    assert scanner.ended
    from_json(given)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("[1]", ""),
        ('{"a": 01}', '{"a": '),
        ('{"a": 1.}', '{"a": '),
        ('{"a": nul }', '{"a": '),
        ('{"a": NaN}', '{"a": '),
        ('{"a": 1,}', '{"a": 1,'),
        ('{"a" 1}', '{"a" '),
        ('{"a": [}', '{"a": ['),
        ('{"a": "\\x"}', '{"a": "'),
        ("{'a': 1}", "{"),
        ('{"a": 1]', '{"a": 1'),
        ('{"a": ' + "[" * 200, '{"a": ' + "[" * 127),
        ('{"a": ' + "1" * 5000 + "}", '{"a": '),
    ],
)
def test_what_is_no_json_is_given_out_up_to_where_it_breaks(text: str, valid: str) -> None:
    given, rest, scanner = scan(text, [])
    assert ("".join(given), rest) == (valid, text.removeprefix(valid))
    assert scanner.broken


def test_a_number_is_held_back_until_it_is_whole() -> None:
    scanner = JsonScanner()
    assert [scanner.feed(piece)[0] for piece in ('{"a": 1', "2", "3", ",")] == [
        '{"a": ',
        "",
        "",
        "123,",
    ]


def test_a_long_string_comes_in_many_pieces() -> None:
    scanner = JsonScanner()
    words = [f"word{number} " for number in range(50)]
    scanner.feed('{"a": "')
    assert [scanner.feed(word)[0] for word in words] == words
