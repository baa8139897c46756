"""From the pieces of an answer to the events of its blocks.

Blocks open and close one after the other, counted from 0. A block opens with its first letter: one
of white space only is none, since a client could not send it back (contract, row 22). What is
random here are the ids of calls and, by way of the signer, the seals of thoughts.
"""

from collections.abc import Callable

from senryu.server.conversation.messages import Demands
from senryu.server.identifiers import new_id

from .blocks import (
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    ThinkingAdded,
    ThinkingSigned,
    ThinkingStarted,
    ToolInputAdded,
    ToolUseStarted,
)
from .splitter import Channel, Piece, may_call
from .stop_scanner import StopScanner


class BlockWriter:
    """Writes one answer. `sign` seals a thought.

    Where a call may follow, white space at the end of a text waits for what comes, and goes when
    it is a call. Stop sequences are looked for in text alone, and nothing follows one.
    """

    def __init__(
        self, demands: Demands, stop_sequences: tuple[str, ...], sign: Callable[[str], str]
    ) -> None:
        self._shows_thoughts = demands.thinking is None or demands.thinking.shown
        self._holds_white = may_call(demands)
        self._stops = StopScanner(stop_sequences)
        self._sign = sign
        self._events: list[BlockEvent] = []
        self._index = -1
        self._open: Channel | None = None
        self._white = ""
        self._thought: list[str] = []

    @property
    def matched(self) -> str | None:
        """The stop sequence that ended the answer, if one did."""
        return self._stops.matched

    def write(self, pieces: list[Piece]) -> list[BlockEvent]:
        """The events that the pieces cause."""
        events = self._events = []
        for channel, text in pieces:
            match channel:
                case Channel.TEXT:
                    self._say(self._stops.feed(text))
                case Channel.THOUGHT:
                    self._think(text)
                case Channel.INPUT:
                    events.append(ToolInputAdded(self._index, text))
                case Channel.CALL:
                    self._say(self._stops.flush())
                    self._close()
                    self._call(text)
                case Channel.END:
                    self._close()
            if self._stops.matched is not None:
                break
        return events

    def end(self) -> list[BlockEvent]:
        """The events at the end of the answer, whatever ended it."""
        events = self._events = []
        self._say(self._stops.flush())
        if self._open is Channel.TEXT and self._white:
            events.append(TextAdded(self._index, self._white))
        self._close()
        return events

    def _say(self, text: str) -> None:
        if self._white:
            text, self._white = self._white + text, ""
        if self._open is not Channel.TEXT:
            if not text.strip():
                self._white = text
                return
            self._begin(Channel.TEXT)
            self._events.append(TextStarted(self._index))
        if self._holds_white:
            whole, text = text, text.rstrip()
            self._white = whole[len(text) :]
        if text:
            self._events.append(TextAdded(self._index, text))

    def _think(self, text: str) -> None:
        if self._open is not Channel.THOUGHT:
            text, self._white = self._white + text, ""
            if not text.strip():
                self._white = text
                return
            self._begin(Channel.THOUGHT)
            self._events.append(ThinkingStarted(self._index))
        self._thought.append(text)
        if self._shows_thoughts:
            self._events.append(ThinkingAdded(self._index, text))

    def _call(self, name: str) -> None:
        self._begin(Channel.CALL)
        self._events.append(ToolUseStarted(index=self._index, id=new_id("toolu"), name=name))

    def _begin(self, channel: Channel) -> None:
        self._index += 1
        self._open = channel

    def _close(self) -> None:
        """Ends the open block, if there is one; white space that waits belongs to none."""
        self._white = ""
        if self._open is Channel.THOUGHT:
            self._events.append(ThinkingSigned(self._index, self._sign("".join(self._thought))))
        if self._open is not None:
            self._events.append(BlockEnded(self._index))
        self._open = None
