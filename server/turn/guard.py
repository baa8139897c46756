"""What somebody wrote stays text, even where it looks like a mark that steers the model.

A word such as `<|im_end|>` in a message is broken by a guard behind its first character. No token
reaches across a guard and guards have no token themselves, so the model reads the word's
characters, and a chat template that looks for the mark does not find it. A guard can only break
words: whoever writes one himself gains nothing.
"""

import re
from functools import lru_cache
from typing import Any, TypeVar

GUARD = "\ufdd0"
"""A Unicode noncharacter, which no text that people exchange contains."""

IMAGE = "\ufdd1\ufdd2"
"""Stands for an image in the text of a message. A mark like any other: two characters, so that a
guard can break the one that a client wrote."""

THOUGHT_BEGINS, THOUGHT_ENDS = "\ufdd1\ufdd3", "\ufdd1\ufdd4"
"""Stand in for the marks of a thought while a template runs. A template that finds the real ones
in a message drops the thought, and with it whatever was said before."""

STAND_INS = (IMAGE, THOUGHT_BEGINS, THOUGHT_ENDS)

Value = TypeVar("Value")


def guarded(value: Value, words: tuple[str, ...]) -> Value:
    """The same value, a text or JSON, with `words` broken in every text of it."""
    same: Value = _guarded(value, words)
    return same


def _guarded(value: Any, words: tuple[str, ...]) -> Any:
    match value:
        case str():
            # Looking for each word is much faster than for any of them, and most texts have none.
            found = tuple(word for word in words if word in value)
            return any_of(found).sub(_broken, value) if found else value
        case list() | tuple():
            return [_guarded(item, words) for item in value]
        case dict():
            return {_guarded(key, words): _guarded(item, words) for key, item in value.items()}
        case _:
            return value


def _broken(found: re.Match[str]) -> str:
    word = found[0]
    return f"{word[:1]}{GUARD}{word[1:]}"


@lru_cache(maxsize=64)
def any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds each of `words`, the longest that stands at a place."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")  # none: matches nothing
