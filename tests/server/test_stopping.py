"""A server that is told to stop says so to those it does not wait for, and ends with status 0."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

ENDLESS = str(10**9)


@pytest.fixture
def endless() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server whose answers never end, and that waits one second when it stops."""
    process = subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"],
        env=os.environ
        | {
            "SENRYU_SCRIPTED_TOKENS": ENDLESS,
            "SENRYU_WINDOW": ENDLESS,
            "SENRYU_GRACE_SECONDS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield process, re.findall(r"http://[\d.:]+", line)[0]
    finally:
        process.kill()
        process.communicate()


def body(*, stream: bool) -> dict[str, object]:
    return {
        "model": "claude-haiku",
        "max_tokens": 10**8,
        "stream": stream,
        "messages": [{"role": "user", "content": "Go on and on."}],
    }


def test_an_open_stream_ends_with_an_error_event(
    endless: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = endless
    last = b""
    with httpx.stream("POST", f"{url}/v1/messages", json=body(stream=True), timeout=60) as reply:
        for number, piece in enumerate(reply.iter_bytes()):
            if number == 3:
                process.send_signal(signal.SIGTERM)
            last = (last + piece)[-1000:]
    event = last.decode().rstrip().rpartition("\n\n")[2]
    name, data = event.split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert error["error"]["type"] == "overloaded_error"
    assert "stopping" in error["error"]["message"]
    assert error["request_id"] == reply.headers["request-id"]
    assert process.wait(timeout=60) == 0
    assert process.stderr
    assert "Traceback" not in process.stderr.read()


def test_an_open_request_gets_an_error_of_the_right_shape(
    endless: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = endless
    timer = threading.Timer(2, process.send_signal, [signal.SIGTERM])
    timer.start()
    begun = time.monotonic()
    reply = httpx.post(f"{url}/v1/messages", json=body(stream=False), timeout=60)
    assert reply.status_code == 503, f"after {time.monotonic() - begun:.0f} s"
    assert reply.json()["error"]["type"] == "overloaded_error"
    assert reply.headers["retry-after"] == "5"
    assert process.wait(timeout=60) == 0
    assert process.stderr
    assert "Traceback" not in process.stderr.read()


def test_a_port_is_taken_from_the_moment_that_a_server_starts() -> None:
    """Two servers that start together do not both load a model."""

    from senryu.server.layers import SettingsError
    from senryu.server.serve import _listen

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        _listen("127.0.0.1", port),
        pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be used"),
    ):
        _listen("127.0.0.1", port)


def test_a_request_whose_body_is_still_arriving_gets_an_error_of_the_right_shape(
    endless: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = endless
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
        client.sendall(head)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        client.settimeout(60)
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    error = json.loads(answer.partition("\r\n\r\n")[2])
    assert error["error"]["type"] == "overloaded_error"
    assert error["request_id"] in answer.partition("\r\n\r\n")[0]
    assert process.wait(timeout=60) == 0
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
