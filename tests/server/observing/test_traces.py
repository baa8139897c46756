"""Traces arrive at a collector on this machine, as parts of the trace that the client began."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.layers import SettingsError
from senryu.server.observing.opening import Observing, open_observing
from senryu.server.observing.traces import endpoint, open_traces
from senryu.server.observing.watch import Exchange
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.account import Ended

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
ASKED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


@dataclass
class Collector:
    """Takes spans over OTLP and HTTP."""

    address: str
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        received = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for each in received
            for resource in each.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def one(self, name: str) -> Span:
        [span] = [each for each in self.spans if each.name == name]
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            collector.paths.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@dataclass
class Traced:
    """A server whose requests are traced, and its client."""

    client: httpx.AsyncClient
    observing: Observing

    async def post(self, body: object, **headers: str) -> httpx.Response:
        return await self.client.post("/v1/messages", json=body, headers=headers)


@pytest.fixture
async def traced(collector: Collector) -> AsyncIterator[Callable[..., Traced]]:
    async with AsyncExitStack() as stack:

        def traced(engine: ScriptedEngine | None = None, **changed: Any) -> Traced:
            settings = ServerSettings(signing_key="k", otlp=collector.address, **changed)
            observing = open_observing(settings)
            stack.push_async_callback(observing.close)
            app = build_app(settings, engine or ScriptedEngine(), observing=observing)
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://senryu.test")
            stack.push_async_callback(client.aclose)
            return Traced(client, observing)

        yield traced


def attributes(span: Span) -> dict[str, Any]:
    told = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        told[each.key] = (
            [one.string_value for one in value.values] if kind == "array_value" else value
        )
    return told


# --- what arrives ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_of_the_trace_that_its_client_began(
    stream: bool, traced: Callable[..., Traced], collector: Collector, body: dict[str, Any]
) -> None:
    server = traced(ScriptedEngine(["one ", "two"]), api_key="secret")
    asked = body | {"stream": stream}
    reply = await server.post(asked, **ASKED, **{"x-api-key": "secret"})
    await server.observing.close()
    assert set(collector.paths) == {"/v1/traces"}
    span = collector.one("chat scripted")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.kind, span.trace_state) == (Span.SPAN_KIND_SERVER, "vendor=1")
    told = attributes(span)
    assert told["senryu.request_id"] == reply.headers["request-id"]
    assert (
        told.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "scripted",
            "gen_ai.request.max_tokens": 100,
            "gen_ai.request.stream": stream,
            "gen_ai.response.finish_reasons": ["end_turn"],
            "gen_ai.usage.output_tokens": 2,
            "http.request.method": "POST",
            "http.route": "/v1/messages",
            "http.response.status_code": 200,
            "senryu.key": "api_key",
            "senryu.tier": "standard",
        }.items()
    )
    assert told["gen_ai.usage.input_tokens"] > 0
    assert span.status.code == Status.STATUS_CODE_UNSET


async def test_waiting_reading_and_writing_are_spans_inside_it(
    collector: Collector, exchange: Callable[..., Exchange], answer: Callable[..., Ended]
) -> None:
    traces = open_traces(collector.address)
    traces.request(exchange(), answer())
    traces.close()
    whole = collector.one("chat tiny")
    parts = [collector.one(name) for name in ("queue", "prefill", "generate")]
    assert {part.parent_span_id for part in parts} == {whole.span_id}
    assert {part.trace_id for part in parts} == {whole.trace_id}
    began = exchange().started_ns
    times = [(part.start_time_unix_nano, part.end_time_unix_nano) for part in parts]
    assert [((start - began) // 10**6, (end - began) // 10**6) for start, end in times] == [
        (0, 100),
        (100, 1_000),
        (1_000, 2_000),
    ]
    assert whole.start_time_unix_nano == began
    assert whole.end_time_unix_nano == exchange().ended_ns


async def test_what_came_no_further_than_the_queue_has_no_later_part(
    collector: Collector, exchange: Callable[..., Exchange], answer: Callable[..., Ended]
) -> None:
    traces = open_traces(collector.address)
    left = answer(state="left", first_token_ms=None, queued_ms=2_000, stop_reason=None)
    traces.request(exchange(status=499), left)
    traces.close()
    assert {span.name for span in collector.spans} == {"chat tiny", "queue"}


async def test_the_tokens_of_a_span_are_all_that_were_read(
    collector: Collector, exchange: Callable[..., Exchange], answer: Callable[..., Ended]
) -> None:
    traces = open_traces(collector.address)
    traces.request(exchange(), answer())
    traces.close()
    told = attributes(collector.one("chat tiny"))
    names = ("input", "cache_read.input", "cache_creation.input", "output", "reasoning.output")
    assert [told[f"gen_ai.usage.{name}_tokens"] for name in names] == [100, 64, 6, 21, 5]


async def test_an_answer_of_a_batch_is_a_trace_of_its_own(
    collector: Collector, answer: Callable[..., Ended]
) -> None:
    traces = open_traces(collector.address)
    traces.request(None, answer(tier="batch", batch_id="msgbatch_1"))
    traces.close()
    span = collector.one("chat tiny")
    assert (span.parent_span_id, span.kind) == (b"", Span.SPAN_KIND_INTERNAL)
    assert attributes(span)["senryu.batch_id"] == "msgbatch_1"


async def test_refusals_are_spans_and_only_our_failures_are_marked_as_such(
    collector: Collector,
    traced: Callable[..., Traced],
    body: dict[str, Any],
    breaking_engine: Any,
) -> None:
    server = traced(breaking_engine(["a ", "b"], before=1), api_key="k")
    await server.post(body, **ASKED)
    await server.post(body | {"stream": True}, **{"x-api-key": "k"})
    await server.observing.close()
    refused, broken = collector.one("POST /v1/messages"), collector.one("chat scripted")
    assert (refused.trace_id.hex(), refused.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(refused)["error.type"] == "authentication_error"
    assert attributes(refused)["http.response.status_code"] == 401
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert broken.status.code == Status.STATUS_CODE_ERROR
    assert attributes(broken)["senryu.state"] == "failed"


async def test_neither_prompt_nor_answer_nor_key_is_sent(
    collector: Collector, traced: Callable[..., Traced], body: dict[str, Any]
) -> None:
    server = traced(ScriptedEngine(["hippo", "potamus"]), api_key="marmalade")
    body = body | {"messages": [{"role": "user", "content": "Zanzibar"}]}
    for stream in (False, True):
        asked = body | {"stream": stream}
        await server.client.post(
            "/v1/messages?key=marmalade", json=asked, headers={"x-api-key": "marmalade"}
        )
    await server.observing.close()
    sent = b"".join(collector.bodies)
    assert b"chat scripted" in sent
    assert [each for each in (b"Zanzibar", b"hippo", b"marmalade") if each in sent] == []


# --- the client's word -------------------------------------------------------------------------


async def test_what_the_client_does_not_sample_is_not_sent(
    collector: Collector, traced: Callable[..., Traced], body: dict[str, Any]
) -> None:
    server = traced()
    await server.post(body, traceparent=f"00-{TRACE}-{PARENT}-00")
    await server.observing.close()
    assert collector.spans == []


@pytest.mark.parametrize("odd", ["", "x", f"00-{TRACE}", f"00-{'0' * 32}-{PARENT}-01", "\xff" * 99])
async def test_a_parent_that_is_none_begins_a_new_trace(
    odd: str, collector: Collector, exchange: Callable[..., Exchange]
) -> None:
    traces = open_traces(collector.address)
    traces.request(exchange(traceparent=odd, tracestate="\xff=,,"), None)
    traces.close()
    [span] = collector.spans
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""


# --- opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("otlp", "address"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector.example/", "https://collector.example/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
        ("http://collector.test/in/v1/traces", "http://collector.test/in/v1/traces"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(otlp: str, address: str) -> None:
    assert endpoint(otlp) == address


@pytest.mark.parametrize(
    "otlp", ["", "collector:4318", "grpc://collector.test:4317", "http://", "http://x:99999", "yes"]
)
def test_what_is_no_address_is_said(otlp: str) -> None:
    with pytest.raises(SettingsError, match=r"^otlp: .* is not an address; write it as http://"):
        endpoint(otlp)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(SettingsError, match=r"install senryu\[tracing\]"):
        endpoint("http://127.0.0.1:4318")


def test_a_server_without_traces_does_not_even_load_the_library() -> None:
    lines = (
        "import sys",
        "from senryu.server.app import build_app",
        "from senryu.server.engine.scripted import ScriptedEngine",
        "from senryu.server.settings import ServerSettings",
        "build_app(ServerSettings(signing_key='k'), ScriptedEngine())",
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


async def test_a_collector_that_is_not_there_loses_its_spans_and_nothing_else(
    body: dict[str, Any],
) -> None:
    settings = ServerSettings(signing_key="k", otlp="http://127.0.0.1:9")
    observing = open_observing(settings)
    app = build_app(settings, ScriptedEngine(), observing=observing)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://senryu.test"
    ) as client:
        assert (await client.post("/v1/messages", json=body)).status_code == 200
    assert observing.traces is not None
    await asyncio.to_thread(observing.traces.close, 0.1)  # comes back
