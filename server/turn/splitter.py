"""Text pieces in, text pieces out, cut before a stop sequence.

Holds back whatever may still become a stop sequence, so that no part of one is ever shown, and
gives the same result however the text is cut into pieces. It knows text and nothing else.
"""

import re


class StopScanner:
    """Watches for stop sequences across piece borders.

    Where several match, the one whose last character comes first wins, and of those the
    longest: what a reader who looks character by character would find.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        # By first letter: most letters of an answer begin no sequence, however many there are.
        self._sequences: dict[str, list[str]] = {}
        for sequence in sequences:
            self._sequences.setdefault(sequence[0], []).append(sequence)
        self._beginnings = re.compile("|".join(map(re.escape, self._sequences)))
        self._held = ""
        self.matched: str | None = None

    def feed(self, piece: str) -> str:
        """The text that may be shown now. After a match it is what stood before the
        sequence, `matched` is set, and the scanner takes no more."""
        if not self._sequences:
            return piece
        text = self._held + piece
        found: list[tuple[int, int, str]] = []
        safe = len(text)
        for beginning in self._beginnings.finditer(text):
            start = beginning.start()
            for sequence in self._sequences[text[start]]:
                if text.startswith(sequence, start):
                    found.append((start + len(sequence), start, sequence))
                elif start < safe and _may_become(text, start, sequence):
                    safe = start
        if found:
            _, shown, self.matched = min(found)
            self._held = ""
            return text[:shown]
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What was held back, once it is known that nothing follows."""
        text, self._held = self._held, ""
        return text


def _may_become(text: str, start: int, sequence: str) -> bool:
    """Whether `text` from `start` on may become `sequence`."""
    rest = len(text) - start
    return rest < len(sequence) and text.endswith(sequence[:rest])
