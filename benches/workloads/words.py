"""Texts of an exact number of tokens, as the server itself counts them.

Comes in: a draft, which is a function from a text to the body that holds it, and how many tokens
the prompt shall have. Goes out: an `Ask`. Words are added and taken away until the server counts
what was wanted. Where it cannot count, a word stands for a token, and the ask is not counted.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from senryu.benches.asks import Ask, Form

from .base import Count

Draft = Callable[[str], Mapping[str, Any]]

# Short and frequent: most tokenizers have each as one token.
_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education foot boy age policy "
    "process music market sense nation plan college interest death experience effect use class "
    "control field paper space ground form event star north south east west table chair river "
    "stone garden winter summer bridge letter window summer bread horse island mountain"
)
_WORDS = _TEXT.split()

_FILLER = " a"
"""One token more, behind any text, of nearly every tokenizer; bytes count two."""
_TRIES = 12


class Pen:
    """Writes words; the same seed writes the same."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - words

    def words(self, number: int) -> list[str]:
        return self._random.choices(_WORDS, k=number)

    def name(self) -> str:
        """Words that stand at the beginning of what no other request shall share."""
        return " ".join(self.words(4))

    def number(self, least: int, most: int) -> int:
        return self._random.randint(least, most)


@dataclass(slots=True)
class Fitter:
    """Fits texts to lengths. It remembers what it found of one for the next, which is alike."""

    count: Count
    _around: int = 0
    """Tokens of a prompt that are not of its text."""
    _each: float = 1.0
    """Tokens a word."""

    async def ask(self, draft: Draft, tokens: int, pen: Pen, form: Form | None = None) -> Ask:
        """The draft's request, whose prompt has so many tokens where that can be."""
        text, counted = await self.text(draft, tokens, pen)
        return Ask(body=draft(text), form=form, counted=counted)

    async def text(self, draft: Draft, tokens: int, pen: Pen) -> tuple[str, int | None]:
        """The text, and what the server counts of the draft that holds it. More than was wanted
        only where the draft is longer with one word already; None where it cannot count."""
        words = pen.words(max(1, tokens))
        found = await self._words(draft, tokens, words)
        if found is None:
            return " ".join(words[: max(1, tokens)]), None
        text, counted = found
        return (text, counted) if counted >= tokens else await self._filled(draft, tokens, *found)

    async def _words(
        self, draft: Draft, tokens: int, words: Sequence[str]
    ) -> tuple[str, int] | None:
        """As many whole words as there is room for, and their count; at least one."""
        seen: dict[int, int] = {}
        number = self._guess(tokens, len(words))
        for _ in range(_TRIES):
            if number in seen:
                break
            counted = await self.count(draft(" ".join(words[:number])))
            if counted is None:
                return None
            seen[number] = counted
            if counted == tokens:
                break
            self._learn(seen)
            step = (tokens - counted) / self._each
            # Upwards by whole words that surely fit; downwards by at least one.
            number = _within(number + (int(step) if step > 0 else min(-1, int(step))), len(words))
        fitting = [each for each in seen if seen[each] <= tokens]
        best = max(fitting) if fitting else min(seen)
        return " ".join(words[:best]), seen[best]

    async def _filled(self, draft: Draft, tokens: int, text: str, counted: int) -> tuple[str, int]:
        """With what is shorter than a word behind it: fillers, and then signs."""
        best = text, counted
        missing = tokens - counted
        reached = await self.count(draft(text + _FILLER * missing))
        if reached is None or reached <= counted:
            return best
        each = (reached - counted) / missing
        fillers = int(missing / each)
        for signs in range(int(each) + 1):
            longer = text + _FILLER * fillers + "." * signs
            reached = await self.count(draft(longer))
            if reached is None or reached > tokens:
                break
            best = max(best, (longer, reached), key=lambda found: found[1])
            if reached == tokens:
                break
        return best

    def _guess(self, tokens: int, most: int) -> int:
        return _within(int((tokens - self._around) / self._each), most)

    def _learn(self, seen: Mapping[int, int]) -> None:
        """From the two last counts; from one, that a word is what it was."""
        *before, last = seen
        if before and seen[last] != seen[before[-1]]:
            each = (seen[last] - seen[before[-1]]) / (last - before[-1])
            self._each = max(each, 0.1)
        self._around = max(0, int(seen[last] - self._each * last))


def _within(number: int, most: int) -> int:
    return max(1, min(number, most))
