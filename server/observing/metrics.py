"""Counters for Prometheus: what was asked for, by whom, how long it took, how full the server is.

Each server has a registry of its own; the engine counts in the process's default one, and both are
shown as one page. How many series there can be is bounded: of names that clients choose the first
hundred are counted by name, and all later ones as `other`.
"""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from senryu.server.tenancy.account import Ended, Opened

from .watch import Exchange, error_type, gave_way

OTHER = "other"
_MOST_NAMES = 100
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
# As betas are written: a name and its date. What else stands in that header is nobody's business.
_BETA = re.compile(r"[a-z][a-z0-9-]{0,60}-(\d{8}|\d{4}-\d{2}-\d{2})")

_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.18, 0.25, 0.5, 1, 2.5)
_ASKERS = ("model", "key", "task", "tier")


class Desk(Protocol):
    """Who knows how many wait."""

    @property
    def queued(self) -> int: ...
    @property
    def queued_tokens(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def seats(self) -> int: ...


class Names:
    """Lets the first names through, up to `most`."""

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._known: set[str] = set()
        self._most = most

    def __call__(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


class Metrics:
    """Hears of each answer (`opened`, `ended`) and of each HTTP request (`request`)."""

    def __init__(self) -> None:
        # A second series for each one, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._keys, self._tasks, self._betas = Names(), Names(), Names()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"senryu_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"senryu_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, buckets: Iterable[float] = _WAITS) -> Histogram:
            labels = ("model", "tier")
            return Histogram(
                f"senryu_{name}_seconds", text, labels, registry=registry, buckets=tuple(buckets)
            )

        self._requests = counter(
            "requests",
            "Answers that ended: done, left by their client, failed; batches give way",
            *_ASKERS,
            "state",
        )
        self._tokens = counter(
            "tokens", "Tokens read and written, each counted as one kind", *_ASKERS, "kind"
        )
        self._thoughts = counter(
            "thinking_tokens", "Those written tokens that were thought", *_ASKERS
        )
        self._cost = counter("cost_dollars", "What they cost at the prices that are set", *_ASKERS)
        self._open = gauge(
            "open_requests", "Answers that were begun and not ended", "model", "tier"
        )
        self._first = seconds("first_token", "From the beginning of a request to its first token")
        self._whole = seconds("answer", "From the beginning of a request to its end")
        self._queue = seconds("queue", "Waiting for a place in the engine")
        self._between = seconds(
            "between_tokens", "Mean time between two tokens of an answer", _STEPS
        )
        self._replies = counter(
            "http_replies", "Replies by HTTP status", "route", "method", "status"
        )
        self._errors = counter(
            "errors", "Replies and streams that told of an error, by its type", "key", "type"
        )
        self._unknown = counter(
            "unknown_betas", "Requests with a beta that this server does not know", "beta"
        )
        self._queued = gauge("queued_requests", "Requests that wait for the engine")
        self._queued_tokens = gauge("queued_tokens", "Tokens of the prompts that wait")
        self._active = gauge("active_requests", "Requests that the engine works on")
        self._seats = gauge("seats", "Requests that the engine works on at most")
        self._healthy = gauge("engine_healthy", "1 while a request could be answered")
        gauge("info", "Which version this is", "version").labels(_version()).set(1)

    def opened(self, told: Opened) -> None:
        self._open.labels(told.model, told.tier).inc()

    def ended(self, told: Ended) -> None:
        opened, usage = told.opened, told.usage
        model, tier = opened.model, opened.tier
        askers = (model, self._keys(opened.caller.name), self._tasks(opened.task or ""), tier)
        self._open.labels(model, tier).dec()
        state = "gave_way" if gave_way(told) else told.state
        self._requests.labels(*askers, state).inc()
        kinds = {
            "input": usage.input_tokens,
            "cache_read": usage.cache_read_tokens,
            "cache_creation_5m": usage.cache_creation_5m_tokens,
            "cache_creation_1h": usage.cache_creation_1h_tokens,
            "output": usage.output_tokens,
        }
        for kind, count in kinds.items():
            if count:
                self._tokens.labels(*askers, kind).inc(count)
        if usage.thinking_tokens:
            self._thoughts.labels(*askers).inc(usage.thinking_tokens)
        if told.cost:
            self._cost.labels(*askers).inc(told.cost / 1e9)
        self._times(told)

    def _times(self, told: Ended) -> None:
        opened, first = told.opened, told.first_token_ms
        labels = (opened.model, opened.tier)
        whole = told.ended_at - opened.started_at
        self._queue.labels(*labels).observe(told.queued_ms / 1000)
        self._whole.labels(*labels).observe(whole / 1000)
        if first is None:
            return
        self._first.labels(*labels).observe(first / 1000)
        if told.usage.output_tokens > 1:
            mean = max(0, whole - first) / (told.usage.output_tokens - 1)
            self._between.labels(*labels).observe(mean / 1000)

    def request(self, exchange: Exchange | None, ended: Ended | None) -> None:
        key = ended.opened.caller.name if ended is not None else None
        if exchange is not None:
            method = exchange.method if exchange.method in _METHODS else OTHER
            route = exchange.route or OTHER
            self._replies.labels(route, method, str(exchange.status)).inc()
            key = key or exchange.key
            for beta in exchange.unknown_betas:
                shown = self._betas(beta) if _BETA.fullmatch(beta) else OTHER
                self._unknown.labels(shown).inc()
        if (error := error_type(exchange, ended)) is not None:
            self._errors.labels(self._keys(key or ""), error).inc()

    def look(self, desk: Desk | None, *, healthy: bool) -> None:
        """How full the server is now."""
        self._healthy.set(healthy)
        if desk is not None:
            self._queued.set(desk.queued)
            self._queued_tokens.set(desk.queued_tokens)
            self._active.set(desk.active)
            self._seats.set(desk.seats)

    def page(self, accept: str) -> tuple[bytes, str]:
        """All that is counted here and by the engine, and its content type. It may take a while:
        call it in a thread."""
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterable[Metric]:
        """For the encoder: ours, then the engine's and the process's."""
        yield from self._registry.collect()
        yield from REGISTRY.collect()


def _version() -> str:
    try:
        return version("senryu")
    except PackageNotFoundError:  # run from a folder that was not installed
        return "unknown"
