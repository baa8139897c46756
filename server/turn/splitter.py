"""Text pieces in, text pieces out, cut before a stop sequence.

Holds back whatever may still become a stop sequence, so that no part of one is ever shown, and
gives the same result however the text is cut into pieces. It knows text and nothing else.
"""


class StopScanner:
    """Watches for stop sequences across piece borders.

    Where several match, the one whose last character comes first wins, and of those the
    longest: what a reader who looks character by character would find.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = sequences
        self._held = ""
        self.matched: str | None = None

    def feed(self, piece: str) -> str:
        """The text that may be shown now. After a match it is what stood before the
        sequence, `matched` is set, and the scanner takes no more."""
        if not self._sequences:
            return piece
        text = self._held + piece
        found = [
            (start + len(sequence), start, sequence)
            for sequence in self._sequences
            if (start := text.find(sequence)) >= 0
        ]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[:start]
        keep = max(_overlap(text, sequence) for sequence in self._sequences)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once it is known that nothing follows."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, sequence: str) -> int:
    """How many characters at the end of `text` begin `sequence`."""
    for start in range(max(0, len(text) - len(sequence) + 1), len(text)):
        if sequence.startswith(text[start:]):
            return len(text) - start
    return 0
