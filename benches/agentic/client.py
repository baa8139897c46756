"""A client of one Messages API server, which measures what it is told and when.

Comes in: a URL, and bodies of requests. Goes out: `Attempt`s with their events and times. The bytes
of a stream are read as they come, so that silence can be timed; the official client would hide it.
"""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx

from .stream import Attempt, Counters, Ending, Event, EventReader, first_token_seconds

_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,"
    "context-management-2025-06-27,mid-conversation-tool-changes-2026-07-01,"
    "thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,effort-2025-11-24",
    "accept": "application/json",
    "accept-encoding": "identity",  # packed bytes come late
    "x-app": "cli",
}
_PATIENCE = 600.0
"""Seconds without a byte after which the official clients leave."""
_SETTLE = 1.0
"""Seconds that a server gets to notice that its client left."""
_COUNTER = re.compile(
    r"^vllm:(\w*prefix_cache_(?:queries|hits))(?:_total)?(?:\{[^}]*\})? (\S+)$", re.M
)


class Refused(Exception):
    """A server did not answer a request. The text is one sentence."""


class Client:
    """Asks one server, one request at a time."""

    def __init__(self, url: str, *, key: str = "local", model: str | None = None) -> None:
        self._http = httpx.Client(
            base_url=url, headers=_HEADERS | {"x-api-key": key}, timeout=httpx.Timeout(_PATIENCE)
        )
        self._counters: Counters | None = None
        self.model = model or self._first_model()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self,
        body: Mapping[str, Any],
        *,
        answer: int,
        leave_after: float | None = None,
        drop_at: int | None = None,
    ) -> Attempt:
        """Streams one answer of at most `answer` tokens. `leave_after`: the client gives up when
        the first token has not come in so many seconds. `drop_at`: it cuts the connection after so
        many deltas. Raises Refused when there is no stream."""
        before = self.counters()
        asked = dict(body) | {"model": self.model, "max_tokens": answer, "stream": True}
        events: list[Event] = []
        sent = time.perf_counter()
        ending: Ending = "broken"
        try:
            for event in self._events(asked, sent, leave_after):
                events.append(event)
                deltas = sum(each.type == "content_block_delta" for each in events)
                if event.type == "message_stop":
                    ending = "whole"
                elif event.type == "error":
                    break
                elif drop_at is not None and deltas >= drop_at:
                    ending = "dropped"
                    break
                elif _waits_too_long(events, sent, leave_after):
                    ending = "timed out"
                    break
        except httpx.ReadTimeout:
            if leave_after is None:
                raise Refused(f"nothing came for {_PATIENCE:.0f} seconds") from None
            ending = "timed out"
        except httpx.HTTPError as error:
            raise Refused(f"the connection broke: {error}") from error
        left = time.perf_counter()
        if ending == "broken":
            told = events[-1].data.get("error") if events else None
            raise Refused(f"the stream ended early: {told or 'no message_stop'}")
        if ending != "whole":
            time.sleep(_SETTLE)
        return Attempt(
            sent=sent, left=left, ending=ending, events=tuple(events), counters=self._grown(before)
        )

    def _events(
        self, body: Mapping[str, Any], sent: float, leave_after: float | None
    ) -> Iterator[Event]:
        """The events of a stream. A client in a hurry also leaves where not a byte comes."""
        reader = EventReader()
        seconds = _PATIENCE if leave_after is None else leave_after
        timeout = httpx.Timeout(_PATIENCE, read=seconds)
        with self._http.stream(
            "POST", "/v1/messages?beta=true", json=body, timeout=timeout
        ) as reply:
            if reply.status_code != 200:
                reply.read()
                raise Refused(f"{reply.status_code}: {_words(reply)}")
            for piece in reply.iter_raw():
                yield from reader.feed(piece, time.perf_counter())

    def count(self, body: Mapping[str, Any]) -> int | None:
        """What `count_tokens` says; None where there is no such route."""
        asked = {key: value for key, value in body.items() if key != "metadata"}
        reply = self._http.post("/v1/messages/count_tokens", json=asked | {"model": self.model})
        if reply.status_code != 200:
            return None
        tokens: int = reply.json()["input_tokens"]
        return tokens

    def counters(self) -> Counters | None:
        """The engine's prefix cache counters, from a Prometheus page; None where it has none."""
        reply = self._http.get("/metrics")
        return read_counters(reply.text) if reply.status_code == 200 else None

    def _grown(self, before: Counters | None) -> Counters | None:
        after = self.counters() if before else None
        return after.since(before) if after and before else None

    def _first_model(self) -> str:
        reply = self._http.get("/v1/models")
        if reply.status_code != 200:
            raise Refused(f"/v1/models answers {reply.status_code}; name one with --model")
        model: str = reply.json()["data"][0]["id"]
        return model


def _waits_too_long(events: list[Event], sent: float, leave_after: float | None) -> bool:
    if leave_after is None or events[-1].at - sent < leave_after:
        return False
    so_far = Attempt(sent=sent, left=events[-1].at, ending="timed out", events=tuple(events))
    return first_token_seconds(so_far) is None


def read_counters(page: str) -> Counters | None:
    """vLLM's, with what a KV connector found (it is asked for the rest only)."""
    found: dict[str, float] = {}
    for name, value in _COUNTER.findall(page):
        found[name] = found.get(name, 0) + float(value)  # one line for each engine
    if "prefix_cache_queries" not in found:
        return None
    had = found.get("prefix_cache_hits", 0) + found.get("external_prefix_cache_hits", 0)
    return Counters(asked=int(found["prefix_cache_queries"]), had=int(had))


def _words(reply: httpx.Response) -> str:
    """The error's own sentence, where it has one."""
    try:
        told = reply.json()
        return str((told.get("error") or told).get("message") or told)
    except (ValueError, AttributeError):
        return reply.text[:300]
