"""Over a real socket: frames go out as they come, pings fill silence, who leaves is let go."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from senryu.server.engine.scripted import POEM
from senryu.server.routes.streaming import EventStream

Body = dict[str, Any]
PING = {"type": "ping"}


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what happens in the server's thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def events(lines: Any) -> Any:
    return (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def check_it_still_answers(url: str, body: Body) -> None:
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "model": "scripted"}
    assert httpx.post(f"{url}/v1/messages/count_tokens", json=body).status_code == 200


def test_each_token_is_sent_before_the_next_is_made(
    serve: Any, stalling_engine: Any, body: Body
) -> None:
    engine = stalling_engine(["One", " two"], before=1)
    server = serve(engine)
    with httpx.stream("POST", f"{server.url}/v1/messages", json=body | {"stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["request-id"].startswith("req_")
        told = events(reply.iter_lines())
        assert [next(told)["type"] for _ in range(2)] == ["message_start", "content_block_start"]
        assert next(told)["delta"]["text"] == "One"
        engine.released.set()
        assert next(told)["delta"]["text"] == " two"
        assert [event["type"] for event in told] == [
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


@pytest.mark.parametrize("before", [0, 1])
def test_pings_fill_the_silence_of_the_engine(
    before: int, serve: Any, stalling_engine: Any, body: Body
) -> None:
    engine = stalling_engine(["One", " two"], before=before)
    server = serve(engine, ping_seconds=0.02)
    with httpx.stream("POST", f"{server.url}/v1/messages", json=body | {"stream": True}) as reply:
        told, pings = [], 0
        for event in events(reply.iter_lines()):
            if event == PING:
                pings += 1
                if pings == 3:
                    engine.released.set()
            else:
                told.append(event["type"])
    assert pings >= 3
    assert told[0] == "message_start"
    assert told[-1] == "message_stop"
    assert told.count("content_block_delta") == 2


async def test_an_engine_that_speaks_all_the_time_leaves_no_silence_to_fill() -> None:
    sent: list[bytes] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.5

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.sleep(3600)

    async def frames() -> AsyncGenerator[bytes, None]:
        while loop.time() < end:
            yield b"token"
            await asyncio.sleep(0)

    await EventStream(frames(), ping_seconds=0.2, farewell=b"")({"type": "http"}, receive, send)
    assert set(sent) == {b"token", b""}


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_request_along(
    stream: bool, before: int, serve: Any, stalling_engine: Any, body: Body
) -> None:
    engine = stalling_engine(POEM, before=before)
    server = serve(engine)
    address = httpx.URL(server.url)
    connection = http.client.HTTPConnection(address.host, address.port or 80)
    connection.request("POST", "/v1/messages", json.dumps(body | {"stream": stream}))
    until(lambda: len(engine.active) == 1)
    connection.close()
    until(lambda: not engine.active)
    assert not engine.released.is_set()
    check_it_still_answers(server.url, body)


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(
    serve: Any, body: Body
) -> None:
    server = serve()
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80)) as wire:
        wire.sendall(
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b'{"mod'
        )
    check_it_still_answers(server.url, body)
    assert not server.engine.active


def test_many_who_leave_at_once_leave_nothing(serve: Any, stalling_engine: Any, body: Body) -> None:
    engine = stalling_engine(POEM, before=1)
    server = serve(engine)
    address = httpx.URL(server.url)
    connections = []
    for index in range(16):
        connection = http.client.HTTPConnection(address.host, address.port or 80)
        connection.request("POST", "/v1/messages", json.dumps(body | {"stream": index % 2 == 0}))
        connections.append(connection)
    until(lambda: len(engine.active) == 16)
    for connection in connections:
        connection.close()
    until(lambda: not engine.active)
    check_it_still_answers(server.url, body)


def test_a_connection_serves_one_request_after_the_other(serve: Any, body: Body) -> None:
    """Errors and streams included: what was said before does not stick to what comes after."""
    server = serve(body_limit_mb=0.01)
    with httpx.Client(base_url=server.url) as client:
        for _ in range(2):
            assert client.post("/v1/messages", json=body).status_code == 200
            assert client.post("/v1/messages", content=b"{").status_code == 400
            assert client.post("/v1/messages", content=b" " * 20_000).status_code == 413
            assert client.get("/v1/messages").status_code == 405
            streamed = client.post("/v1/messages", json=body | {"stream": True})
            assert streamed.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_a_pooled_connection_that_is_closed_between_requests_is_no_abort(
    serve: Any, body: Body
) -> None:
    server = serve()
    for _ in range(3):
        with httpx.Client(base_url=server.url) as client:
            assert client.post("/v1/messages", json=body).status_code == 200
    assert not server.engine.active


async def test_pings_do_not_pile_up_before_a_client_that_does_not_read() -> None:
    sent: list[bytes] = []
    reading = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            await reading.wait()

    async def receive() -> Any:
        await asyncio.sleep(3600)

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"

    response = EventStream(frames(), ping_seconds=0.01, farewell=b"")
    task = asyncio.create_task(response({"type": "http"}, receive, send))
    await asyncio.sleep(0.2)
    assert sent == [b"one", b'event: ping\ndata: {"type":"ping"}\n\n']
    reading.set()
    await task
    assert sent[-2:] == [b"two", b""]
