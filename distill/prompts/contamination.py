"""Keeps what is trained on and what is measured with apart.

Comes in: the words of tasks, and on which side each stands. Goes out: whether one shares a run of
words with the other side. The evaluation set is the held-out tasks, and those are known only as
prompts come in; so whichever of two comes later gives way, and neither side ever holds what the
other does. It refuses to know where tasks come from.
"""

from __future__ import annotations

import hashlib


class Sides:
    """The runs of `run` words on either side; 0 lets everything pass."""

    def __init__(self, run: int) -> None:
        self._run = run
        self._seen: dict[bool, set[int]] = {True: set(), False: set()}

    def shared(self, words: list[str], *, held_out: bool) -> bool:
        """Whether these stand on the other side too."""
        return not self._seen[not held_out].isdisjoint(self._runs(words))

    def add(self, words: list[str], *, held_out: bool) -> None:
        self._seen[held_out] |= self._runs(words)

    def _runs(self, words: list[str]) -> set[int]:
        if not self._run:
            return set()
        starts = range(len(words) - self._run + 1)
        return {_number(" ".join(words[at : at + self._run])) for at in starts}


def _number(text: str) -> int:
    """64 bits stand for the words. In a set they take about eighty bytes: a million prompts of
    fifty words, some four gigabytes; 0 as the length of a run keeps none."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
