"""Follows a JSON object as it is written, piece by piece, and finds where it ends.

Text in, JSON text out that every client can read: each character once, as soon as it is certain.
What strict readers refuse in a string is escaped (raw control characters) or replaced (halves of
surrogate pairs); a number that no float holds is replaced. Nothing is parsed into values here, and
no schema is known.
"""

import math
import re

# What may come next, by first character; "0" stands for numbers and words.
_VALUE = '"{[0'
_VALUE_OR_END = '"{[0]'
_KEY = '"'
_KEY_OR_END = '"}'
_COLON = ":"
_MORE = {"{": ",}", "[": ",]"}

_DEEPEST = 128
"""The official clients' parser gives up at 200."""
_LONGEST_NUMBER = 4000
"""The same parser gives up at 4300 digits."""

_LARGEST = "1.7976931348623157e308"
"""What stands for a number that is larger: read as an infinity, it could not be sent back."""

_WHITE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null", re.ASCII)
_FLOAT = re.compile(r"-?\d+[.eE]")
_SCALAR_LETTERS = re.compile(r"[-+.0-9A-Za-z]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')

_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_HALF_ESCAPE = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3}"
    r"|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?\Z"
)
_REPLACEMENT = r"\ufffd"


class JsonScanner:
    """Reads one object, from its brace on.

    Numbers and escapes that are not yet whole are held back: what has been given out can always
    be read as the beginning of an object.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._next = "{"
        self._in_string = False
        self._held = ""
        self.ended = False
        """Its last brace has come."""
        self.broken = False
        """What came cannot be part of a JSON object."""

    def feed(self, text: str) -> tuple[str, str]:
        """The JSON that is certain now, and the text that is no part of it: what follows the end,
        or what broke it and all that follows."""
        if self._in_string and not self._held:
            plain = _PLAIN.match(text)
            if plain and plain.end() == len(text):  # the common case by far
                return text, ""
        text, self._held = self._held + text, ""
        given: list[str] = []
        at = 0
        while at < len(text) and not (self.ended or self.broken or self._held):
            piece, at = self._string(text, at) if self._in_string else self._token(text, at)
            given.append(piece)
        return "".join(given), "" if self._held else text[at:]

    def _string(self, text: str, at: int) -> tuple[str, int]:
        """A run of plain letters, or the one thing that ends it; and where that ends."""
        plain = _PLAIN.match(text, at)
        if plain and plain[0]:
            return plain[0], plain.end()
        letter = text[at]
        if letter == '"':
            self._in_string = False
            return letter, at + 1
        if letter != "\\":
            return f"\\u{ord(letter):04x}", at + 1
        if escape := _ESCAPE.match(text, at):
            return escape[0], escape.end()
        if _HALF_ESCAPE.match(text, at):
            self._held = text[at:]
            return "", at
        if lone := _LONE_SURROGATE.match(text, at):
            return _REPLACEMENT, lone.end()
        self.broken = True
        return "", at

    def _token(self, text: str, at: int) -> tuple[str, int]:
        """White space, a mark of structure, the opening of a string, or a number or word."""
        white = _WHITE.match(text, at)
        if white and white[0]:
            return white[0], white.end()
        letter = text[at]
        if letter not in '"{}[]:,':
            return self._scalar(text, at)
        if letter not in self._next or (letter in "{[" and len(self._open) == _DEEPEST):
            self.broken = True
            return "", at
        match letter:
            case "{" | "[":
                self._open.append(letter)
                self._next = _KEY_OR_END if letter == "{" else _VALUE_OR_END
            case "}" | "]":
                self._open.pop()
                self.ended = not self._open
                self._after_value()
            case ":":
                self._next = _VALUE
            case ",":
                self._next = _KEY if self._open[-1] == "{" else _VALUE
            case _:
                self._in_string = True
                if self._next in (_KEY, _KEY_OR_END):
                    self._next = _COLON
                else:
                    self._after_value()
        return letter, at + 1

    def _scalar(self, text: str, at: int) -> tuple[str, int]:
        letters = _SCALAR_LETTERS.match(text, at)
        assert letters, "the pattern matches nothing, too"
        end = letters.end()
        if "0" in self._next and end - at <= _LONGEST_NUMBER:
            if end == len(text):  # it may go on: 12 is not yet 123
                self._held = letters[0]
                return "", at
            if _SCALAR.fullmatch(text, at, end):
                self._after_value()
                return _finite(letters[0]), end
        self.broken = True
        return "", at

    def _after_value(self) -> None:
        self._next = _MORE[self._open[-1]] if self._open else ""


def _finite(scalar: str) -> str:
    """The same number or word, or the largest number. Whole numbers have no bound."""
    if not _FLOAT.match(scalar) or math.isfinite(float(scalar)):
        return scalar
    return f"-{_LARGEST}" if scalar.startswith("-") else _LARGEST
