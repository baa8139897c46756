"""Text cut before the first stop sequence in it, however the text arrives in pieces.

Text in, text out. Whatever may still become a sequence is held back, so that no part of one is
ever shown.
"""

import re
from bisect import bisect_left, bisect_right


class StopScanner:
    """Watches for stop sequences across piece borders.

    Where several match, the one whose last character comes first wins, and of those the
    longest: what a reader who looks character by character would find.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        # In order, so that a search among any number of them takes a few steps.
        self._sequences = sorted(sequences)
        self._backwards = _shortest(sorted(sequence[::-1] for sequence in sequences))
        self._first_letters = re.compile("|".join({re.escape(each[0]) for each in sequences}))
        self._last_letters = {each[-1] for each in sequences}
        # The longest end of the text that a sequence begins with.
        self._held = ""
        self.matched: str | None = None

    def feed(self, piece: str) -> str:
        """The text that may be shown now. After a match it is what stood before the
        sequence, `matched` is set, and the scanner takes no more."""
        if not self._sequences or not (self._held or self._first_letters.search(piece)):
            return piece
        text = self._held + piece
        held = self._held
        for end, letter in enumerate(piece, start=len(held) + 1):
            held += letter
            while held and not self._begins(held):
                held = held[1:]
            if letter in self._last_letters and self._ends(held):
                self.matched = max(filter(held.endswith, self._sequences), key=len)
                self._held = ""
                return text[: end - len(self.matched)]
        self._held = held
        return text[: len(text) - len(held)]

    def flush(self) -> str:
        """What was held back, once it is known that nothing follows."""
        text, self._held = self._held, ""
        return text

    def _begins(self, held: str) -> bool:
        """Whether a sequence begins so."""
        place = bisect_left(self._sequences, held)
        return place < len(self._sequences) and self._sequences[place].startswith(held)

    def _ends(self, held: str) -> bool:
        """Whether a sequence is complete."""
        read = held[::-1]
        place = bisect_right(self._backwards, read)
        return place > 0 and read.startswith(self._backwards[place - 1])


def _shortest(ordered: list[str]) -> list[str]:
    """Those that begin with no other one: of these at most one begins a text, the last that is
    not behind it in the order."""
    found: list[str] = []
    for each in ordered:
        if not (found and each.startswith(found[-1])):
            found.append(each)
    return found
