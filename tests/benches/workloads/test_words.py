"""Prompts have exactly the length that was ordered, whatever a server calls a token."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from senryu.benches.workloads.words import Fitter, Pen


def draft(text: str) -> Mapping[str, Any]:
    return {"text": text}


class Words:
    """Counts a token a word and one a sign, and seven more for the template."""

    def __init__(self) -> None:
        self.asked = 0

    async def count(self, body: Mapping[str, Any]) -> int | None:
        self.asked += 1
        return 7 + len(re.findall(r"\w+|[^\w\s]", body["text"]))


class Bytes(Words):
    """Counts bytes."""

    async def count(self, body: Mapping[str, Any]) -> int | None:
        self.asked += 1
        return 40 + len(body["text"].encode())


class Halves(Words):
    """Counts two tokens for a long word, as some tokenizers do."""

    async def count(self, body: Mapping[str, Any]) -> int | None:
        self.asked += 1
        return 7 + sum(1 + (len(word) > 5) for word in body["text"].split())


@pytest.mark.parametrize("kind", [Words, Bytes, Halves])
@pytest.mark.parametrize("tokens", [60, 61, 62, 63, 64, 128, 1000, 4001])
async def test_a_prompt_is_as_long_as_it_was_ordered(kind: type[Words], tokens: int) -> None:
    server = kind()
    for number in range(5):
        ask = await Fitter(server.count).ask(draft, tokens, Pen(f"seed {number}"))
        assert ask.counted == await server.count(ask.body) == tokens


async def test_what_was_learnt_of_one_saves_counting_for_the_next() -> None:
    server = Words()
    fitter = Fitter(server.count)
    await fitter.ask(draft, 500, Pen("first"))
    server.asked = 0
    for number in range(10):
        await fitter.ask(draft, 500, Pen(f"{number}"))
    assert server.asked == 10


async def test_what_is_longer_with_one_word_is_told_as_it_is() -> None:
    ask = await Fitter(Words().count).ask(draft, 5, Pen("seed"))
    assert ask.counted == 8


async def test_where_nobody_counts_a_word_stands_for_a_token() -> None:
    async def count(body: Mapping[str, Any]) -> int | None:
        return None

    ask = await Fitter(count).ask(draft, 50, Pen("seed"))
    assert ask.counted is None
    assert len(ask.body["text"].split()) == 50


async def test_a_seed_writes_the_same_again_and_another_does_not() -> None:
    def write(seed: str) -> str:
        return " ".join(Pen(seed).words(50))

    assert write("a") == write("a")
    assert write("a").split()[:4] != write("b").split()[:4]
