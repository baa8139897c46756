"""What a prompt cost adds up to the prompt, whatever the marks and whatever was found (5.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Usage
from senryu.server.turn.accounting import input_usage
from senryu.server.turn.marks import Mark, grown

MARKS = st.lists(
    st.builds(
        Mark,
        tokens=st.integers(0, 500),
        ttl=st.sampled_from(("5m", "1h")),
        part=st.just("messages"),
    ),
    max_size=4,
)


def counts(usage: Usage) -> tuple[int, int, int, int]:
    return (
        usage.cache_read_tokens,
        usage.cache_creation_1h_tokens,
        usage.cache_creation_5m_tokens,
        usage.input_tokens,
    )


@given(
    length=st.integers(500, 1000),
    marks=MARKS,
    cached=st.integers(0, 1000),
    block=st.sampled_from((1, 16, 32)),
)
def test_the_counts_are_the_prompt(length: int, marks: list[Mark], cached: int, block: int) -> None:
    found = counts(input_usage(length, marks, cached=min(cached, length), block=block))
    assert sum(found) == length
    assert min(found) >= 0
    assert found[0] <= cached


@given(length=st.integers(500, 1000), marks=MARKS, block=st.sampled_from((1, 16, 32)))
def test_the_same_request_again_reads_what_it_wrote(
    length: int, marks: list[Mark], block: int
) -> None:
    first = input_usage(length, marks, cached=0, block=block)
    # The engine keeps every whole block but that of the last token.
    kept = (length - 1) // block * block
    again = input_usage(length, marks, cached=kept, block=block)
    assert again.cache_creation_tokens == 0
    assert again.cache_read_tokens == first.cache_creation_tokens
    assert again.input_tokens == first.input_tokens


@pytest.mark.parametrize(
    ("marks", "cached", "expected"),
    [
        ((), 96, (0, 0, 0, 200)),
        ((("5m", 100),), 0, (0, 0, 96, 104)),
        ((("5m", 100),), 64, (64, 0, 32, 104)),
        ((("5m", 100),), 192, (96, 0, 0, 104)),
        ((("1h", 64), ("5m", 128)), 0, (0, 64, 64, 72)),
        ((("1h", 64), ("5m", 128)), 32, (32, 32, 64, 72)),
        ((("1h", 64), ("5m", 128)), 96, (96, 0, 32, 72)),
        ((("1h", 64), ("1h", 128)), 96, (96, 32, 0, 72)),
        ((("5m", 31),), 0, (0, 0, 0, 200)),
        # A template with the tools behind the system prompt: the marks' order is another one.
        ((("5m", 64), ("1h", 128)), 0, (0, 128, 0, 72)),
    ],
)
def test_each_count(
    marks: tuple[tuple[str, int], ...], cached: int, expected: tuple[int, int, int, int]
) -> None:
    told = [Mark(tokens, ttl, "messages") for ttl, tokens in marks]  # type: ignore[arg-type]
    assert counts(input_usage(200, told, cached=cached, block=32)) == expected


def test_a_prefix_below_the_minimum_counts_as_not_cached() -> None:
    marks = [Mark(100, "5m", "messages")]
    assert counts(input_usage(200, marks, cached=96, block=32, minimum=97)) == (0, 0, 0, 200)
    assert counts(input_usage(200, marks, cached=96, block=32, minimum=96)) == (96, 0, 0, 104)


def test_a_mark_behind_images_moves_as_they_grow() -> None:
    marks = [Mark(tokens, "5m", "messages") for tokens in (5, 6, 20)]
    images = [(5, 64), (10, 10)]
    assert [mark.tokens for mark in grown(marks, images)] == [5, 6 + 63, 20 + 63 + 9]
