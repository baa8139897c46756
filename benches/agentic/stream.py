"""What one request came to: events with the time that each came, and what can be read off them.

Comes in: bytes of an event stream with their times. Goes out: an `Attempt`, and figures of it. It
is pure, and takes events as they are: a server that leaves something out is told by None.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

Ending = Literal["whole", "dropped", "timed out", "broken"]
"""How a request ended: by itself, by the client's leaving (in the stream, or before its first
token), or by the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a stream."""

    at: float
    """When its last byte came, in seconds of the client's clock."""
    type: str
    data: Mapping[str, Any]


class EventReader:
    """Cuts a byte stream into events, wherever the network cut it before."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes, at: float) -> Iterator[Event]:
        self._rest += piece.replace(b"\r", b"")
        *whole, self._rest = self._rest.split(b"\n\n")
        for frame in whole:
            lines = [line for line in frame.split(b"\n") if line.startswith(b"data:")]
            if not lines:
                continue  # a comment: a client does not count it as a sign of life
            data = json.loads(b"\n".join(line[5:] for line in lines))
            yield Event(at=at, type=str(data.get("type", "")), data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request as its server counts them. None: it does not say."""

    input: int
    output: int
    creation: int | None
    read: int | None

    @property
    def prompt(self) -> int:
        return self.input + (self.creation or 0) + (self.read or 0)

    @property
    def computed(self) -> int | None:
        """Tokens of the prompt that were not found in a cache."""
        return None if self.read is None else self.input + (self.creation or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The engine's own: how many prompt tokens it was asked for, and how many it had."""

    asked: int
    had: int

    def since(self, before: "Counters") -> "Counters":
        return Counters(asked=self.asked - before.asked, had=self.had - before.had)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request that was sent, and all that came of it."""

    sent: float
    left: float
    """When the stream ended, or the client left."""
    ending: Ending
    events: tuple[Event, ...]
    counters: Counters | None = field(default=None)
    """What the engine counted meanwhile; None where it shows no counters."""

    def first(self, *types: str) -> Event | None:
        return next((event for event in self.events if event.type in types), None)


def start_seconds(attempt: Attempt) -> float | None:
    """From sending to `message_start`."""
    start = attempt.first("message_start")
    return start.at - attempt.sent if start else None


def first_token_seconds(attempt: Attempt) -> float | None:
    """From sending to the first delta that holds something; an empty answer has none but its end
    (a delta without text is a sign of life, and no token)."""
    for event in attempt.events:
        if event.type == "message_delta":
            return event.at - attempt.sent
        delta = event.data.get("delta") or {}
        if event.type == "content_block_delta" and any(
            delta.get(key) for key in ("text", "thinking", "partial_json", "signature")
        ):
            return event.at - attempt.sent
    return None


def longest_silence(attempt: Attempt, *, pings: bool) -> float:
    """Seconds between two events, sending and leaving included. `pings`: whether they count as
    events."""
    heard = [event.at for event in attempt.events if pings or event.type != "ping"]
    return max(later - earlier for earlier, later in pairwise([attempt.sent, *heard, attempt.left]))


def started_usage(attempt: Attempt) -> Usage | None:
    """As `message_start` tells it."""
    start = attempt.first("message_start")
    return _usage(start.data["message"].get("usage")) if start else None


def final_usage(attempt: Attempt) -> Usage | None:
    """As `message_delta` tells it; what it leaves out or says to be null holds as before."""
    start, end = attempt.first("message_start"), attempt.first("message_delta")
    if end is None:
        return None
    said = dict((start.data["message"].get("usage") or {}) if start else {})
    later = end.data.get("usage") or {}
    return _usage(said | {key: value for key, value in later.items() if value is not None})


def known_usage(attempt: Attempt) -> Usage | None:
    """The last that was told."""
    return final_usage(attempt) or started_usage(attempt)


def _usage(told: Mapping[str, Any] | None) -> Usage | None:
    if not told or told.get("input_tokens") is None:
        return None
    return Usage(
        input=told["input_tokens"],
        output=told.get("output_tokens") or 0,
        creation=told.get("cache_creation_input_tokens"),
        read=told.get("cache_read_input_tokens"),
    )


def same_input(first: Usage, second: Usage) -> bool:
    """Whether both say the same about the prompt. Where one says nothing and the other 0 is no
    contradiction."""

    def told(usage: Usage) -> tuple[int, int, int]:
        return usage.input, usage.creation or 0, usage.read or 0

    return told(first) == told(second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The tool calls of one answer."""

    made: int
    unparsable: int
    """Their input is no JSON object, or they name no tool."""
    cut: int
    """The last one, where `max_tokens` ended it: no fault of the server's."""


def calls(attempt: Attempt, tools: frozenset[str]) -> Calls:
    names: dict[int, str] = {}
    inputs: dict[int, str] = {}
    for event in attempt.events:
        index = int(event.data.get("index", -1))
        block, delta = event.data.get("content_block") or {}, event.data.get("delta") or {}
        if block.get("type") == "tool_use":
            names[index] = str(block.get("name"))
            inputs[index] = ""
        elif index in inputs:
            inputs[index] += delta.get("partial_json") or ""
    bad = [index for index in names if names[index] not in tools or not _is_object(inputs[index])]
    end = attempt.first("message_delta")
    full = end is None or (end.data.get("delta") or {}).get("stop_reason") == "max_tokens"
    cut = 1 if full and bad and bad[-1] == max(names) else 0
    return Calls(made=len(names), unparsable=len(bad) - cut, cut=cut)


def _is_object(text: str) -> bool:
    if not text:
        return True  # a tool without arguments
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def signed_thoughts(attempt: Attempt) -> list[dict[str, Any]]:
    """The thinking blocks that a client sends back: whole, and signed."""
    begun: dict[int, dict[str, Any]] = {}
    ended = set()
    for event in attempt.events:
        index = int(event.data.get("index", -1))
        block, delta = event.data.get("content_block") or {}, event.data.get("delta") or {}
        if event.type == "content_block_start" and block.get("type") == "thinking":
            thought = {"type": "thinking", "thinking": "", "signature": ""}
            begun[index] = thought | {
                key: block.get(key) or "" for key in ("thinking", "signature")
            }
        elif event.type == "content_block_delta" and index in begun:
            for key in ("thinking", "signature"):
                begun[index][key] += delta.get(key) or ""
        elif event.type == "content_block_stop":
            ended.add(index)
    return [block for index, block in begun.items() if index in ended and block["signature"]]
