"""Finds prompts that say what another one said, word for word or nearly.

Comes in: texts, one after the other. Goes out: what each repeats. Two texts are the same when only
case, marks and white space differ; nearly so when their sets of five words in a row overlap, which
MinHash estimates (Broder 1997) and an LSH index looks up. All of it is fixed by the texts and their
order. It refuses to know tasks.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache
from typing import Any, Literal

_RUN = 5
_PERMUTATIONS = 128
# So many bands of so many rows: pairs that overlap by 0.6 are found with a chance of 0.99, by 0.8
# always, and few of those that hardly overlap have to be compared.
_BANDS = (32, 4)

# Scripts that write no spaces between words: each character counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Its words without case and marks; a text without any is one word."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(plain) or ["".join(plain.split())]


class Distinct:
    """The texts so far. `near`: the similarity, 0 to 1, above which two are one; 1 asks for
    nothing but equal words."""

    def __init__(self, near: float) -> None:
        self._near = near
        self._exact: set[bytes] = set()
        self._sketches: list[Any] = []
        self._index: Any = None
        self._latest: tuple[list[str], Any] | None = None

    def repeated(self, text: list[str]) -> Literal["exact", "near"] | None:
        """What the words repeat; nothing is kept of them."""
        if _name(text) in self._exact:
            return "exact"
        if self._index is None or not self._sketched(text):
            return None
        sketch = self._sketch(text)
        found = (self._sketches[place] for place in self._index.query(sketch))
        return "near" if any(sketch.jaccard(each) > self._near for each in found) else None

    def add(self, text: list[str]) -> None:
        self._exact.add(_name(text))
        if not self._sketched(text):
            return
        if self._index is None:
            from datasketch import MinHashLSH

            self._index = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
        sketch = self._sketch(text)
        self._index.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)

    def _sketched(self, text: list[str]) -> bool:
        """A text of fewer words has no run to share: only equal ones are duplicates of it."""
        return self._near < 1 and len(text) >= _RUN

    def _sketch(self, text: list[str]) -> Any:
        """What is asked for is mostly added right after."""
        if self._latest is None or self._latest[0] is not text:
            self._latest = (text, _sketch(text))
        return self._latest[1]


def _name(text: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(text).encode(), digest_size=16).digest()


def _sketch(text: list[str]) -> Any:
    from datasketch import LeanMinHash

    runs = {" ".join(text[at : at + _RUN]) for at in range(len(text) - _RUN + 1)}
    sketch = _empty().copy()
    sketch.update_batch([run.encode() for run in sorted(runs)])
    return LeanMinHash(sketch)


@cache
def _empty() -> Any:
    """Its permutations take longer to draw than a prompt to be sketched."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1)
