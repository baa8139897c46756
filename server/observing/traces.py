"""Traces for a collector, over OTLP: a span for each request, and in it its times in the engine.

The span is made when the request is over and all is known of it. It continues the client's trace
where the request carries one (W3C trace context), and whether it is sampled is then the client's
word. Names follow OpenTelemetry's conventions for generative AI. No text of prompts or answers is
in it. OpenTelemetry is imported when traces are asked for, by `open_traces`.
"""

from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from senryu.server.layers import SettingsError
from senryu.server.tenancy.account import Ended

from .watch import Exchange, error_type, gave_way

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

_MS = 1_000_000  # in nanoseconds
_PATH = "/v1/traces"


class Traces:
    """Sends a span for each request that it hears of."""

    def __init__(self, provider: "TracerProvider", exporter: "SpanExporter") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("senryu.server")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, exchange: Exchange | None, ended: Ended | None) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        error = error_type(exchange, ended)
        attributes = _http(exchange) | _answer(ended)
        if error is not None:
            attributes["error.type"] = error
        name = _name(exchange, ended)
        started, over = _bounds(exchange, ended)
        span = self._tracer.start_span(
            name,
            context=self._parent(exchange),
            kind=SpanKind.SERVER if exchange else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=started,
        )
        if ended is not None and span.is_recording():
            self._parts(span, ended)
        ours = ended is not None and ended.state == "failed" and not gave_way(ended)
        if ours or (exchange is not None and exchange.status >= 500):
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(over)

    def _parent(self, exchange: Exchange | None) -> "Context":
        from opentelemetry.context import Context

        if exchange is None or exchange.traceparent is None:
            return Context()
        carrier = {"traceparent": exchange.traceparent}
        if exchange.tracestate is not None:
            carrier["tracestate"] = exchange.tracestate
        return self._propagator.extract(carrier, Context())

    def _parts(self, span: "Span", ended: Ended) -> None:
        """Waiting, reading and writing, as far as it came."""
        from opentelemetry.trace import set_span_in_context

        began = ended.opened.started_at
        seated = began + ended.queued_ms
        first = None if ended.first_token_ms is None else began + ended.first_token_ms
        parts = [("queue", began, seated)]
        if first is not None:
            parts += [("prefill", seated, first), ("generate", first, ended.ended_at)]
        elif ended.ended_at > seated + 1:  # rounded, a wait to the very end may seem to end before
            parts.append(("prefill", seated, ended.ended_at))
        inside = set_span_in_context(span)
        for name, start, end in parts:
            part = self._tracer.start_span(name, context=inside, start_time=start * _MS)
            part.end(max(start, end) * _MS)

    def close(self, patience: float = 3.0) -> None:
        """Send what is left, as far as the collector takes it in so many seconds. It waits: call it
        in a thread."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(patience)
        if sending.is_alive():
            self._exporter.shutdown()  # it would try again and again
            sending.join(patience)


def open_traces(otlp: str) -> Traces:
    """Traces for the collector at this address. Raises SettingsError."""
    address = endpoint(otlp)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "senryu"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(address)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider, exporter)


def endpoint(otlp: str) -> str:
    """Where spans are sent to: this address, with the usual path where it has none. Raises
    SettingsError, also where OpenTelemetry is not installed: before a model is loaded."""
    try:
        address = urlsplit(otlp)
        good = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise SettingsError(
            f"otlp: {otlp!r} is not an address; write it as http://collector.example:4318"
        )
    try:
        installed = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise SettingsError(
            "otlp: traces want OpenTelemetry, which is not installed; install senryu[tracing]"
        )
    return urlunsplit(address if address.path.strip("/") else address._replace(path=_PATH))


def _name(exchange: Exchange | None, ended: Ended | None) -> str:
    if ended is not None:
        return f"chat {ended.opened.model}"
    assert exchange is not None
    return f"{exchange.method} {exchange.route}" if exchange.route else exchange.method


def _bounds(exchange: Exchange | None, ended: Ended | None) -> tuple[int, int]:
    """Beginning and end in nanoseconds; what is inside of it is known by milliseconds."""
    starts, ends = [], []
    if exchange is not None:
        starts.append(exchange.started_ns)
        ends.append(exchange.ended_ns)
    if ended is not None:
        starts.append(ended.opened.started_at * _MS)
        ends.append(ended.ended_at * _MS)
    return min(starts), max(ends)


def _http(exchange: Exchange | None) -> dict[str, Any]:
    if exchange is None:
        return {}
    told = {
        "http.request.method": exchange.method,
        "url.path": exchange.path,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "senryu.request_id": exchange.request_id,
        "senryu.key": exchange.key,
    }
    return {name: value for name, value in told.items() if value}


def _answer(ended: Ended | None) -> dict[str, Any]:
    if ended is None:
        return {}
    opened, usage = ended.opened, ended.usage
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_creation_tokens
    first = ended.first_token_ms
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "senryu",
        "gen_ai.request.model": opened.model,
        "gen_ai.request.max_tokens": opened.max_tokens,
        "gen_ai.request.stream": opened.stream,
        "gen_ai.response.id": opened.id,
        "gen_ai.response.model": opened.model,
        "gen_ai.response.finish_reasons": [ended.stop_reason] if ended.stop_reason else None,
        "gen_ai.response.time_to_first_chunk": None if first is None else first / 1000,
        "gen_ai.usage.input_tokens": read,  # the convention counts what was cached too
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_creation_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens,
        "senryu.request_id": opened.request_id,
        "senryu.key": opened.caller.name or None,
        "senryu.task": opened.task,
        "senryu.tier": opened.tier,
        "senryu.batch_id": opened.batch_id,
        "senryu.state": ended.state,
        "senryu.usd": ended.cost / 1e9,
    }
    return {name: value for name, value in told.items() if value is not None}
