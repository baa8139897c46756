"""An event stream of an answer, read while it comes, whichever API it is of.

Comes in: bytes with the time at which they came, cut anywhere. Goes out: when the first piece came
that holds something and when the others, usage, the reason of the end, and what went wrong. Where
the bytes were cut changes nothing of what is read. No socket and no clock.

A frame is what stands between two blank lines. An API says what one means, in `_event`, and may
know a shorter way to tell that a frame is one more piece: of 50,000 a second most are.
"""

from abc import ABC, abstractmethod
from array import array
from typing import Any

import orjson

from senryu.benches.asks import Form

from .sample import Failure, Kind, Usage

_LONGEST_FRAME = 2**23
"""Bytes. No token is that long; without an end to it such a server would fill our memory."""
_BOM = b"\xef\xbb\xbf"


class Reading(ABC):
    """What has come of one answer."""

    def __init__(self, form: Form | None) -> None:
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.gaps = array("d")
        self.usage: Usage | None = None
        self.stop_reason: str | None = None
        self.failure: Failure | None = None
        self.ended = 0.0
        self.over = False
        """It ended, well or not: what still comes is not looked at."""
        self._texts: list[str] = []
        self._inputs: dict[Any, list[str]] = {}
        """Of each tool call, by the server's index: the pieces of its input."""
        self._form = form
        self._now = 0.0
        self._rest = b""
        self._fresh = True
        self._returned = False

    def feed(self, data: bytes, at: float) -> None:
        """Bytes that came at `at`."""
        if self.over:
            return
        self._now = at
        if self._returned or b"\r" in data:
            data = self._with_plain_ends(data)
        frames = (self._rest + data).split(b"\n\n")
        self._rest = frames.pop()
        if pieces := self._pieces(frames):
            self._note(pieces)
        if len(self._rest) > _LONGEST_FRAME and not self.over:
            self._fail("garbled", f"an event of more than {_LONGEST_FRAME:,} bytes")

    def close(self, at: float) -> None:
        """Nothing more will come."""
        if not self.over:
            self._now = at
            self._fail("cut off", "the stream ended, and the answer had not")

    def _with_plain_ends(self, data: bytes) -> bytes:
        """Lines may end with LF, CR LF or CR; a CR LF may be cut in two. A CR inside of JSON is
        always escaped."""
        if self._returned and data.startswith(b"\n"):
            data = data[1:]
            self._returned = False
        if data:
            self._returned = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _pieces(self, frames: list[bytes]) -> int:
        pieces = 0
        for frame in frames:
            pieces += self._frame(frame)
            if self.over:
                break
        return pieces

    def _note(self, pieces: int) -> None:
        if self.last_token is None:
            self.first_token = self._now
        else:
            self.gaps.append(self._now - self.last_token)
        self.last_token = self._now
        if pieces > 1:
            self.gaps.frombytes(bytes(self.gaps.itemsize * (pieces - 1)))

    def _frame(self, frame: bytes) -> int:
        """How many pieces it holds: 1 or 0."""
        if self._fresh:
            self._fresh = False
            frame = frame.removeprefix(_BOM)
        name, data = "", []
        for line in frame.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ").decode(errors="replace")
        return self._event(name, b"\n".join(data)) if data else 0

    @abstractmethod
    def _event(self, name: str, data: bytes) -> int:
        """What an event says; 1 when it is a piece that holds something. `name` may be empty."""

    def _object(self, data: bytes) -> dict[str, Any] | None:
        """The JSON object of an event; without one the stream is garbled, and it is None."""
        try:
            told = orjson.loads(data)
        except orjson.JSONDecodeError:
            told = None
        if isinstance(told, dict):
            return told
        self._fail("garbled", f"the data of an event is no JSON object: {shown(data)}")
        return None

    def _finish(self) -> None:
        """The answer ended well; what is left to ask is its form."""
        self.over, self.ended = True, self._now
        if wrong := self._wrong_form():
            if self.stop_reason == "max_tokens":
                wrong += "; max_tokens ended it"
            self.failure = Failure(kind="malformed", text=wrong)

    def _fail(self, kind: Kind, text: str) -> None:
        self.over, self.ended = True, self._now
        self.failure = Failure(kind=kind, text=text)

    def _wrong_form(self) -> str | None:
        if self._form == "call":
            if not self._inputs:
                return "the answer calls no tool"
            # A tool without arguments may be called without a word of input.
            inputs = ["".join(pieces) or "{}" for pieces in self._inputs.values()]
            bad = next((each for each in inputs if not _holds(each, dict)), None)
            return None if bad is None else f"the input of a call is no JSON object: {shown(bad)}"
        if self._form == "json":
            text = "".join(self._texts)
            return None if _holds(text, object) else f"the answer is no JSON: {shown(text)}"
        return None


def _holds(text: str, kind: type) -> bool:
    try:
        return isinstance(orjson.loads(text), kind)
    except orjson.JSONDecodeError:
        return False


def member(told: Any, name: str) -> dict[str, Any]:
    """An object inside of another; empty where there is none, or something else."""
    found = told.get(name) if isinstance(told, dict) else None
    return found if isinstance(found, dict) else {}


def number(told: dict[str, Any], name: str) -> int | None:
    """A count of tokens, where one is told."""
    found = told.get(name)
    return found if type(found) is int and found >= 0 else None


def sentence(told: Any) -> str:
    """What a JSON error says, in the words of whichever server; empty when it says nothing."""
    if not isinstance(told, dict):
        return ""
    error = told.get("error")
    if isinstance(error, str):
        return shown(error)
    for place in (error, told):
        if isinstance(place, dict) and isinstance(place.get("message"), str):
            kind = place.get("type")
            words = place["message"]
            return shown(f"{kind}: {words}" if isinstance(kind, str) and kind else words)
    return shown(told["detail"]) if isinstance(told.get("detail"), str) else ""


def shown(said: str | bytes) -> str:
    """The beginning, on one line."""
    text = said[:1000].decode(errors="replace") if isinstance(said, bytes) else said[:1000]
    text = " ".join(text.split())
    return f"{text[:200]}..." if len(text) > 200 else text
