"""The elements of a list that stands in a JSON object too long to hold in memory, one at a time.

In: a function that reads the text piece by piece. Out: the bytes of each element as they were sent,
so that nothing of them changes on the way. Only where they begin and end is looked for here; that
each is JSON itself is for whoever reads it to say, and bytes between two are seen to be none but
commas and space.
"""

import re
from collections.abc import Callable, Iterator
from io import BytesIO

import orjson

from .errors import InvalidRequest, RequestTooLarge

Read = Callable[[int], bytes]

_PIECE = 1 << 18
_SPACE = re.compile(rb"[ \t\r\n]*+")
# A whole string, what opens or closes, or the quote of a string whose end is still to come.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]|"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,:\[\]{}]*+")


def elements(read: Read, name: str, *, most_bytes: int) -> Iterator[bytes]:
    """Those of the list `name`, the only member of the object. Raises InvalidRequest, and
    RequestTooLarge for one of more than `most_bytes`."""
    text = _Text(read, most_bytes)
    if text.next() != b"{":
        raise _invalid("an object is required")
    text.skip(b"{")
    seen = False
    while text.next() != b"}":
        if seen:
            text.skip(b",")
        key = _key(text)
        if key != name:
            raise InvalidRequest(f"{key}: Extra inputs are not permitted")
        if seen:
            raise InvalidRequest(f"{name}: it is there twice; send it once")
        text.skip(b":")
        if text.next() not in (b"[", b""):
            raise InvalidRequest(f"{name}: Input should be a valid list")
        yield from _of_list(text, name)
        seen = True
    text.skip(b"}")
    if text.next():
        raise _invalid("there is more after its end")
    if not seen:
        raise InvalidRequest(f"{name}: Field required")


def member(whole: bytes, name: str) -> bytes:
    """The bytes of a member's value in an object that is known to be JSON and to have it; the last
    one where there are several."""
    text = _Text(BytesIO(whole).read, len(whole))
    text.skip(b"{")
    found = b""
    while True:
        key = _key(text)
        text.skip(b":")
        value = text.value(key)
        if key == name:
            found = value
        if text.next() == b"}":
            return found
        text.skip(b",")


def _of_list(text: "_Text", name: str) -> Iterator[bytes]:
    text.skip(b"[")
    number = 0
    while text.next() != b"]":
        if number:
            text.skip(b",")
        yield text.value(f"{name}.{number}")
        number += 1
    text.skip(b"]")


def _key(text: "_Text") -> str:
    if text.next() != b'"':
        raise _invalid("a name in quotes is expected")
    try:
        key: str = orjson.loads(text.value("a name"))
    except orjson.JSONDecodeError as error:
        raise _invalid(str(error)) from None
    return key


class _Text:
    """What is left of the text, of which no more is held than one value and what was read with
    it."""

    def __init__(self, read: Read, most_bytes: int) -> None:
        self._read, self._most = read, most_bytes
        self._held, self._at = b"", 0

    def next(self) -> bytes:
        """The next byte that is no space, which stays; none at the end."""
        while True:
            space = _SPACE.match(self._held, self._at)
            assert space is not None  # it matches nothing, too
            self._at = space.end()
            if self._at < len(self._held) or not self._more():
                return self._held[self._at : self._at + 1]

    def skip(self, expected: bytes) -> None:
        found = self.next()
        if found != expected:
            what = repr(found.decode("latin-1")) if found else "its end"
            raise _invalid(f"{expected.decode()!r} is expected where {what} is")
        self._at += 1

    def value(self, where: str) -> bytes:
        """The bytes of the value that comes next."""
        first = self.next()
        length = self._nested(where) if first in (b'"', b"[", b"{") else self._scalar(where)
        self._check(where, length)
        begin, self._at = self._at, self._at + length
        return self._held[begin : self._at]

    def _nested(self, where: str) -> int:
        looked, depth = 0, 0  # how far, from where the value begins
        while True:
            begin, whole = self._at + looked, True
            for token in _TOKEN.finditer(self._held, begin):
                kind = token[0][:1]
                if kind == b'"':
                    if len(token[0]) == 1:  # its end is not here yet
                        looked, whole = token.start() - self._at, False
                        break
                elif kind in b"[{":
                    depth += 1
                else:
                    depth -= 1
                if depth == 0:
                    return token.end() - self._at
            if whole:
                looked = len(self._held) - self._at
            self._lengthen(where)

    def _scalar(self, where: str) -> int:
        while True:
            found = _SCALAR.match(self._held, self._at)
            assert found is not None
            if found.end() == self._at < len(self._held):
                raise _invalid(f"a value is expected where {chr(self._held[self._at])!r} is")
            if found.end() < len(self._held):
                return found.end() - self._at
            self._lengthen(where)

    def _lengthen(self, where: str) -> None:
        """Read on within a value."""
        self._check(where, len(self._held) - self._at)
        if not self._more():
            raise _invalid("it ends in the middle")

    def _check(self, where: str, length: int) -> None:
        if length > self._most:
            raise RequestTooLarge(
                f"{where}: it exceeds the maximum size of {self._most / 2**20:g} MB; send less"
            )

    def _more(self) -> bool:
        # As much again as is held: a long string is looked through from its beginning each time.
        left = self._held[self._at :]
        piece = self._read(max(_PIECE, len(left)))
        self._held, self._at = left + piece, 0
        return bool(piece)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The request body is not valid JSON: {why}")
