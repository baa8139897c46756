"""Stop sequences are found however an answer is cut, and no part of one is shown."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from senryu.server.turn.stop_scanner import StopScanner

# Few letters, so that sequences overlap with the text and with each other all the time.
letters = st.sampled_from("ab·")
texts = st.text(letters, max_size=30)
sequences = st.lists(st.text(letters, min_size=1, max_size=5), max_size=4).map(tuple)


def naive(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """What is shown of `text`, and the sequence that ended it."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def scan(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], str | None]:
    """What was shown after each piece, and in the end."""
    scanner = StopScanner(stops)
    shown = [""]
    for piece in pieces:
        shown.append(shown[-1] + scanner.feed(piece))
        if scanner.matched is not None:
            return shown, scanner.matched
    shown.append(shown[-1] + scanner.flush())
    return shown, None


@given(cut_texts(), sequences)
@example(["ab", "ab"], ("abab", "b"))
@example(["aa", "b"], ("ab", "aab"))
@example(["a", "a", "b"], ("aab", "aaa"))
def test_any_cut_shows_what_the_naive_reader_finds(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    shown, matched = scan(pieces, stops)
    assert (shown[-1], matched) == naive("".join(pieces), stops)


@given(cut_texts(), sequences)
def test_what_was_shown_is_never_taken_back(pieces: list[str], stops: tuple[str, ...]) -> None:
    """So no part of a sequence is ever shown: each step is a beginning of the result."""
    shown, _ = scan(pieces, stops)
    assert all(shown[-1].startswith(step) for step in shown)


@given(cut_texts(), sequences)
def test_no_more_is_held_back_than_could_become_a_sequence(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    scanner = StopScanner(stops)
    shown, fed = "", ""
    for piece in pieces:
        shown += scanner.feed(piece)
        fed += piece
        if scanner.matched is not None:
            return
        held = fed.removeprefix(shown)
        assert not held or any(stop.startswith(held) for stop in stops)


@given(cut_texts())
def test_without_sequences_everything_passes_at_once(pieces: list[str]) -> None:
    scanner = StopScanner(())
    assert [scanner.feed(piece) for piece in pieces] == pieces
    assert scanner.flush() == ""


def test_a_flush_gives_what_was_held_and_only_once() -> None:
    scanner = StopScanner(("END",))
    assert scanner.feed("the EN") == "the "
    assert scanner.flush() == "EN"
    assert scanner.flush() == ""


@pytest.mark.parametrize(
    "stops",
    [
        tuple(f"word{number}" for number in range(500)),
        ("word " * 4000 + "!",),
        tuple("word " * number + "!" for number in range(1, 500)),
    ],
)
def test_neither_many_sequences_nor_long_ones_hold_up_the_stream(stops: tuple[str, ...]) -> None:
    """A hundred microseconds for each token would be far too many."""
    scanner = StopScanner(stops)
    started = time.process_time()
    for _ in range(1000):
        scanner.feed("word ")
    assert time.process_time() - started < 0.1
