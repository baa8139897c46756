"""Text pieces in, channel pieces out.

Whatever may still become a mark is held back, so that no part of one is ever shown, and the result
is the same however the text is cut into pieces. What cannot be understood is text, as far as it
stands before a call; nothing raises. Knows text and marks, and no events.
"""

import re
from collections.abc import Callable
from enum import Enum, auto
from functools import cache

from senryu.server.conversation.messages import Demands

from .dialects.base import CallMarks, Dialect
from .json_scanner import JsonScanner


class Channel(Enum):
    """What a piece of an answer is."""

    THOUGHT = auto()
    TEXT = auto()
    CALL = auto()
    """A call begins; the piece is the tool's name."""
    INPUT = auto()
    """JSON of the call's input."""
    END = auto()
    """The thought or the call is complete; the piece is empty."""


Piece = tuple[Channel, str]

# What a model may write too much of in front of a name or between two calls.
_SLACK = 64


def may_call(demands: Demands) -> bool:
    """Whether the answer may hold calls."""
    return bool(demands.callable_tools) and demands.tool_choice.mode != "none"


class Splitter:
    """Finds the thought and the calls in an answer.

    Calls are looked for only when the answer may hold some. Then no mark is ever shown as text,
    also where the model spelt a call wrong: what stands between its marks is text. An input that
    goes wrong ends its call and the answer: nothing follows a call but other calls, and the client
    has what was right of it.
    """

    def __init__(self, dialect: Dialect, demands: Demands) -> None:
        self.thinking = demands.thinking is not None
        """Whether the next character belongs to the thought, or to the mark that closes it."""
        self.called = False
        """Whether a call has ended. Behind it there are only other calls."""
        self.done = False
        """Whether nothing more may follow: the rest of the answer need not be written."""
        self.beyond = 0
        """How many characters of the text in which the thought ended stand behind it."""
        self._held = ""
        self._pieces: list[Piece] = []
        self._read: Callable[[str], str] = self._plain
        if may_call(demands):
            self._look_for_calls(dialect.calls, demands)
        self._answer = self._read
        if self.thinking:
            assert dialect.thought, "only a model that thinks is asked to"
            self._closing = _finder(dialect.thought.closing.rstrip())
            self._read = self._thought

    def _look_for_calls(self, marks: CallMarks, demands: Demands) -> None:
        self._names = {tool.name for tool in demands.callable_tools}
        self._several = marks.parallel and demands.tool_choice.parallel
        self._opening = marks.opening
        self._opening_is_json = marks.opening.startswith("{")
        closing = marks.tail.lstrip("]} \n")  # the rest of the tail is JSON
        self._marks = _finder(*filter(None, (marks.opening, closing)))
        self._head_pattern = marks.head_pattern
        self._head_limit = max(len(marks.head_of(name)) for name in self._names) + _SLACK
        self._tail_pattern = marks.tail_pattern
        self._tail_limit = len(marks.tail + marks.separator + marks.opening) + _SLACK
        between = rf"\s*{re.escape(marks.separator.strip())}\s*{re.escape(marks.opening)}"
        self._another = re.compile(between)
        self._input = JsonScanner()
        self._between = self._text if marks.anywhere else self._plain
        self._read = self._text if marks.anywhere else self._start

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain now."""
        self._pieces = []
        self._read_on(self._held + text)
        return self._pieces

    def flush(self, *, cut: bool) -> list[Piece]:
        """What was held back, once it is known that nothing follows. Of an answer that was `cut`
        in the middle of a call, what does not yet name a tool is dropped (contract 1.10.2), and
        half a mark too, unless it is a single character."""
        self._pieces = []
        while self._read == self._head and not cut:
            self._read_on(self._refused(self._held))
        is_said = self._held and self._read in (self._start, self._text, self._thought)
        if is_said and not (cut and len(self._held) > 1):
            self._pieces.append((Channel.THOUGHT if self.thinking else Channel.TEXT, self._held))
        self._held = ""
        return self._pieces

    def _read_on(self, rest: str) -> None:
        self._held = ""
        while rest:
            rest = self._read(rest)

    # Each of these reads one part of an answer: it adds to the pieces, holds back what is
    # undecided, and returns what is left for the reader of the next part.

    def _plain(self, text: str) -> str:
        self._pieces.append((Channel.TEXT, text))
        return ""

    def _thought(self, text: str) -> str:
        mark, rest = self._until(self._closing, Channel.THOUGHT, text)
        if mark:
            self._pieces.append((Channel.END, ""))
            self.thinking = False
            self.beyond = len(rest.lstrip("\n"))
            self._read = self._gap
        return rest

    def _gap(self, text: str) -> str:
        """The empty lines behind a thought."""
        text = text.lstrip("\n")
        if text:
            self._read = self._answer
        return text

    def _start(self, text: str) -> str:
        """Where alone a call may begin."""
        if text.startswith(self._opening):
            self._read = self._head
            return text.removeprefix(self._opening)
        if self._opening.startswith(text):
            self._held = text
            return ""
        self._read = self._plain
        return text

    def _text(self, text: str) -> str:
        mark, rest = self._until(self._marks, Channel.TEXT, text)
        if mark == self._opening:
            self._read = self._head
        return rest

    def _until(self, marks: re.Pattern[str], channel: Channel, text: str) -> tuple[str, str]:
        """Gives out what stands before a mark: the mark and what follows it, both empty if there
        is none yet."""
        found = marks.search(text)
        start = len(text) if found is None else found.start()
        if start:
            self._pieces.append((channel, text[:start]))
        if found is None:
            return "", ""
        if found[1] is None:
            self._held = found[0]
            return "", ""
        return found[1], text[found.end() :]

    def _head(self, text: str) -> str:
        # What lies beyond the limit may be there already, and is not looked at in any case.
        limit = min(len(text), self._head_limit)
        head = self._head_pattern.match(text, 0, limit)
        if head is None or head.end() == limit:
            if limit < self._head_limit:
                self._held = text
                return ""
            return self._refused(text)
        if head["name"] not in self._names or text[head.end()] != "{":
            return self._refused(text)
        self._pieces.append((Channel.CALL, head["name"]))
        self._input = JsonScanner()
        self._read = self._json
        return text[head.end() :]

    def _refused(self, text: str) -> str:
        """What began like a call and is none. Its opening is lost if it is a tag."""
        if self._opening_is_json and not self.called:
            self._pieces.append((Channel.TEXT, self._opening))
        return self._no_call(text)

    def _no_call(self, text: str) -> str:
        """Text, unless it comes behind a call."""
        self._read = self._end if self.called else self._between
        return text

    def _json(self, text: str) -> str:
        json, rest = self._input.feed(text)
        if json:
            self._pieces.append((Channel.INPUT, json))
        if self._input.ended:
            self._pieces.append((Channel.END, ""))
            self.called = True
            self._read = self._after if self._several else self._end
            self.done = not self._several
        elif self._input.broken:
            self._pieces.append((Channel.END, ""))
            self.called = True
            return self._end(rest)
        return rest

    def _after(self, text: str) -> str:
        """The tail of a call, and the opening of another one if there is one."""
        tail = self._tail_pattern.match(text, 0, self._tail_limit)
        another = tail and self._another.match(text, tail.end(), self._tail_limit)
        if another:
            self._read = self._head
            return text[another.end() :]
        if len(text) < self._tail_limit:
            self._held = text
            return ""
        return self._end(text)

    def _end(self, text: str) -> str:
        self._read = self._end
        self.done = True
        return ""


@cache
def _finder(*marks: str) -> re.Pattern[str]:
    """Finds the first of `marks` as group 1, or else, at the end, what may become one."""
    halves = {mark[:length] for mark in marks for length in range(1, len(mark))}
    whole = "|".join(map(re.escape, marks))
    half = "|".join(map(re.escape, sorted(halves)))
    return re.compile(rf"({whole})|(?:{half})\Z")
