"""What strangers may make the server wait for, over raw sockets."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from senryu.server.engine.scripted import ScriptedEngine

Body = dict[str, Any]
HELLO = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
QUICK = 0.15  # seconds, where the test is to see them pass
LONG = 60.0  # ... and where they are not to


@contextmanager
def connected(server: Any, *, receives: int | None = None) -> Iterator[socket.socket]:
    place = urlsplit(server.url)
    with socket.socket() as made:
        if receives is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        made.settimeout(20)
        made.connect((place.hostname, place.port))
        yield made


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def one_of(connection: socket.socket) -> bytes:
    """One answer with a length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def refused(answer: bytes) -> tuple[int, Body]:
    """The status and the error of an answer that is the last one and has the contract's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    told = json.loads(body)
    assert "connection: close" in lines
    assert "content-type: application/json" in lines
    assert f"request-id: {told['request_id']}".lower() in lines
    assert told["type"] == "error"
    return int(lines[0].split()[1]), told["error"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def asking(body: Body, *, pad: int = 0) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-pad: {'p' * pad}\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def test_a_head_may_be_as_long_as_the_limit_and_no_longer(serve: Any, body: Body) -> None:
    server = serve(head_limit_kb=2, head_seconds=LONG)
    with connected(server) as connection:
        connection.sendall(asking(body, pad=1900))
        assert one_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(asking(body, pad=2000))
        status, error = refused(all_of(connection))
    assert (status, error["type"]) == (431, "request_too_large")
    assert error["message"].endswith("the maximum size of 2 KB; send less in them")


@pytest.mark.parametrize("part", [b"x-a: b\r\n", b"x", b"\r\n"])
def test_a_head_without_an_end_is_refused_while_it_comes(serve: Any, part: bytes) -> None:
    """Many headers, a long one, or the blank lines that may stand before a request."""
    server = serve(head_limit_kb=2, head_seconds=LONG)
    with connected(server) as connection:
        connection.sendall(b"" if part == b"\r\n" else HELLO[:-2])
        for _ in range(40):
            try:
                connection.sendall(part * (2**14 // len(part)))
            except (BrokenPipeError, ConnectionResetError):
                break
        status, _ = refused(all_of(connection))
    assert status == 431


def test_a_long_address_is_part_of_the_head(serve: Any) -> None:
    server = serve(head_limit_kb=2, head_seconds=LONG)
    with connected(server) as connection:
        connection.sendall(b"GET /health?" + b"q" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert refused(all_of(connection))[0] == 431


def test_who_is_refused_and_goes_on_sending_still_reads_why(serve: Any) -> None:
    server = serve(head_limit_kb=2, head_seconds=LONG)
    with connected(server) as connection:
        connection.sendall(HELLO[:-2] + b"x: " + b"y" * 2**21)
        assert refused(all_of(connection))[0] == 431


def test_what_is_no_http_is_told_so_in_the_contracts_shape(serve: Any) -> None:
    with connected(serve(head_seconds=LONG)) as connection:
        connection.sendall(b"\x16\x03\x01\x02 hello?\r\n\r\n")
        status, error = refused(all_of(connection))
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_a_connection_that_says_nothing_is_closed(serve: Any) -> None:
    with connected(serve(head_seconds=QUICK)) as connection:
        assert all_of(connection) == b""


def test_a_head_has_its_time_however_its_bytes_drip_in(serve: Any) -> None:
    server = serve(head_seconds=QUICK)
    with connected(server) as connection:
        connection.sendall(HELLO[:-2])
        connection.settimeout(QUICK / 10)
        answer = b""
        while b"\r\n\r\n" not in answer:
            try:
                answer += connection.recv(65536)
            except TimeoutError:
                connection.sendall(b"x")  # of a header that never ends
        connection.settimeout(20)
        status, error = refused(answer + all_of(connection))
    assert (status, error["type"]) == (408, "timeout_error")


def test_a_second_head_has_its_time_too(serve: Any) -> None:
    with connected(serve(head_seconds=QUICK)) as connection:
        connection.sendall(HELLO)
        assert one_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HELLO[:10])
        assert refused(all_of(connection))[0] == 408


def test_blank_lines_after_an_answer_are_no_way_to_stay(serve: Any) -> None:
    with connected(serve(head_seconds=QUICK)) as connection:
        connection.sendall(HELLO)
        assert one_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert all_of(connection) == b""


def test_a_body_that_nobody_waits_for_is_not_read_for_ever(serve: Any) -> None:
    """A GET is answered before its body has come."""
    with connected(serve(head_seconds=QUICK)) as connection:
        connection.sendall(HELLO[:-2] + b"content-length: 1000000\r\n\r\nx")
        assert one_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"x")
        assert all_of(connection) == b""


def test_an_answer_may_take_longer_than_a_head(
    serve: Any, stalling_engine: Any, body: Body
) -> None:
    engine = stalling_engine(["One", " two"], before=1)
    with connected(serve(engine, head_seconds=QUICK, ping_seconds=QUICK)) as connection:
        connection.sendall(asking(body | {"stream": True}))
        told = b""
        while told.count(b"event: ping") < 4:
            told += connection.recv(65536)
        engine.released.set()
        while b"message_stop" not in told:
            told += connection.recv(65536)


def test_several_requests_in_one_go_are_answered_one_by_one(serve: Any, body: Body) -> None:
    with connected(serve(head_seconds=LONG)) as connection:
        connection.sendall(HELLO + asking(body) + HELLO.replace(b"host: x\r\n", b"host: y\r\nx: 1"))
        connection.sendall(b"\r\n\r\n")
        told = b""
        while told.count(b"HTTP/1.1 200 ") < 3:
            told += connection.recv(65536)


def test_who_reads_nothing_is_cut_off_and_the_engine_let_go(serve: Any, body: Body) -> None:
    engine = ScriptedEngine(tokens=10_000_000)
    server = serve(engine, head_seconds=QUICK, window=100_000_000)
    with connected(server, receives=4096) as connection:
        connection.sendall(asking(body | {"stream": True, "max_tokens": 100_000}))
        until(lambda: len(engine.active) == 1)
        until(lambda: not engine.active)
        assert b"message_stop" not in all_of(connection)


def test_who_reads_slowly_is_waited_for(serve: Any, body: Body) -> None:
    """The kernel holds megabytes for it: it reads on long before we can write on."""
    server = serve(ScriptedEngine(tokens=30_000), head_seconds=0.5)
    with connected(server, receives=4096) as connection:
        connection.sendall(asking(body | {"stream": True, "max_tokens": 30_000}))
        told = b""
        while b"message_stop" not in told:
            part = connection.recv(2**20)
            assert part, "the server hung up"
            told += part
            if len(told) < 200_000:
                time.sleep(0.02)


def test_who_does_not_read_the_end_of_an_answer_is_cut_off_too(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no request any more that would notice it."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    lost = []
    on_lost = HttpToolsProtocol.connection_lost

    def connection_lost(self: Any, error: Exception | None) -> None:
        lost.append(self)
        on_lost(self, error)

    monkeypatch.setattr(HttpToolsProtocol, "connection_lost", connection_lost)
    server = serve(ScriptedEngine(["x" * 2**22]), head_seconds=QUICK)
    body = {"model": "scripted", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    with connected(server, receives=4096) as connection:
        connection.sendall(asking(body))
        until(lambda: len(lost) == 1)
        assert len(all_of(connection)) < 2**22
