"""Identifiers have the contract's form, and enough randomness to be stored and replayed."""

import re

import pytest

from senryu.server.identifiers import new_id


@pytest.mark.parametrize("prefix", ["msg", "req", "toolu"])
def test_an_identifier_is_its_prefix_and_plain_characters(prefix: str) -> None:
    for _ in range(100):
        assert re.fullmatch(rf"{prefix}_01[1-9A-HJ-NP-Za-km-z]{{22}}", new_id(prefix))


def test_identifiers_do_not_repeat() -> None:
    assert len({new_id("msg") for _ in range(10_000)}) == 10_000


def test_every_position_but_the_last_is_drawn_from_the_whole_alphabet() -> None:
    """128 bits in base 58: twenty-one free digits, and a last one that carries the rest."""
    drawn = [new_id("x")[4:] for _ in range(3_000)]
    assert len(drawn[0]) == 22
    assert all(len({text[place] for text in drawn}) == 58 for place in range(21))
