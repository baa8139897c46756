"""`senryu chat` holds a conversation, and has one sentence for everything that can go wrong."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from senryu.server.chat import main
from senryu.server.engine.scripted import POEM, ScriptedEngine

Type = Callable[..., None]
MODELS = json.dumps({"data": [{"id": "scripted"}]})


@pytest.fixture(autouse=True)
def _environment_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Puts lines on stdin; it is no terminal unless the test says so."""

    def typed(*lines: bytes | str, terminal: bool = False) -> None:
        data = [line if isinstance(line, bytes) else line.encode() for line in lines]
        stdin = io.TextIOWrapper(io.BytesIO(b"".join(line + b"\n" for line in data)), "utf-8")
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stdin)
        if terminal:
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    return typed


class Stub(ThreadingHTTPServer):
    """Something that speaks HTTP and says what it was told to, by path."""

    daemon_threads = True

    def __init__(self, said: dict[str, tuple[int, str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said = said
        self.asked: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        status, kind, body = self.server.said[self.path]
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def stub() -> Iterator[Callable[..., Stub]]:
    """Starts one: `stub(models=…, messages=…)`, each a body or (status, type, body)."""
    running = []

    def answer(said: str | tuple[int, str, str]) -> tuple[int, str, bytes]:
        status, kind, body = (200, "text/event-stream", said) if isinstance(said, str) else said
        return status, kind, body.encode()

    def start(models: Any = MODELS, messages: Any = "") -> Stub:
        server = Stub({"/v1/models": answer(models), "/v1/messages": answer(messages)})
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def stream(*events: dict[str, Any]) -> str:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)


def text(piece: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}}


STOP = {"type": "message_stop"}


# --- a conversation ----------------------------------------------------------------------------


def test_an_answer_goes_to_stdout_and_nothing_else_does(
    serve: Callable[..., Any], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("Write a senryu.")
    assert main(["--url", serve().url]) == 0
    out, err = capsys.readouterr()
    assert out == POEM + "\n"
    assert err == ""


def test_each_request_repeats_what_was_said_until_it_is_forgotten(
    stub: Callable[..., Stub], typed: Type
) -> None:
    server = stub(messages=stream(text("Hel"), text("lo."), STOP))
    typed("one", "", "two", "/new", "three")
    assert main(["--url", server.url, "--system", "Be brief.", "--max-tokens", "7"]) == 0
    hello = {"role": "assistant", "content": "Hello."}
    one, two, three = ({"role": "user", "content": word} for word in ("one", "two", "three"))
    assert [body["messages"] for body in server.asked] == [[one], [one, hello, two], [three]]
    assert {(body["system"], body["max_tokens"]) for body in server.asked} == {("Be brief.", 7)}


@pytest.mark.parametrize("script", [" ", "\n \n"])
def test_an_answer_of_nothing_does_not_spoil_the_next_question(
    script: str, serve: Callable[..., Any], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server refuses empty turns, so a kept one would fail every later request."""
    typed("one", "two", terminal=True)
    assert main(["--url", serve(ScriptedEngine([script])).url]) == 0
    said = capsys.readouterr().err
    assert said.count("[the model said nothing; this question is forgotten]") == 2
    assert "messages" not in said


def test_an_answer_that_was_cut_says_so(
    serve: Callable[..., Any], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("one", "two")
    assert main(["--url", serve().url, "--max-tokens", "3"]) == 0
    assert capsys.readouterr().err.count("[it was cut here: give a larger --max-tokens]") == 2


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_as_other_clients_want_it(
    ending: str, serve: Callable[..., Any], typed: Type
) -> None:
    typed("hi")
    assert main(["--url", serve().url + ending]) == 0


def test_an_address_without_a_scheme_is_http(serve: Callable[..., Any], typed: Type) -> None:
    typed("hi")
    assert main(["--url", serve().url.removeprefix("http://")]) == 0


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({"ANTHROPIC_API_KEY": "k"}, []),
        ({"ANTHROPIC_AUTH_TOKEN": "k"}, []),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "other"}, []),
        ({"ANTHROPIC_API_KEY": "other"}, ["--key", " k "]),
    ],
)
def test_the_key_is_looked_for_where_the_official_clients_look(
    variables: dict[str, str],
    flags: list[str],
    serve: Callable[..., Any],
    typed: Type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    typed("hi")
    assert main(["--url", serve(api_key="k").url, *flags]) == 0


# --- what can go wrong -------------------------------------------------------------------------


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.startswith("senryu chat: ")
    assert said.count("\n") == 1
    return said.removeprefix("senryu chat: ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--url", "http://127.0.0.1:1"], "no server answers at http://127.0.0.1:1 ("),
        (["--url", "http://[::"], "--url: http://[:: is no address ("),
        (["--url", "ftp://x"], "no server answers at ftp://x ("),
        (["--key", "é"], "the key has characters that no header can carry"),
        (["--key", "a\nb"], "the key has characters that no header can carry"),
        (["--system", "\udcff"], "--system is not UTF-8 text"),
    ],
)
def test_a_server_that_cannot_be_asked_is_one_sentence(
    flags: list[str], said: str, typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("hi")
    assert main(flags) == 1
    assert sentence(capsys).startswith(said)


def test_a_wrong_key_says_where_to_give_the_right_one(
    serve: Callable[..., Any], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("hi")
    assert main(["--url", serve(api_key="k").url]) == 1
    assert "give the server's key with --key or ANTHROPIC_API_KEY" in sentence(capsys)


@pytest.mark.parametrize(
    "models",
    [
        (200, "text/html", "<html>Hello</html>"),
        (200, "application/json", "[]"),
        (200, "application/json", '{"data": []}'),
        (200, "application/json", '{"data": [{}]}'),
        (200, "application/json", "\xff"),
        (404, "text/html", "<html>Not here</html>"),
        (500, "application/json", '{"error": "no"}'),
        (302, "text/html", ""),
    ],
)
def test_a_server_of_another_kind_is_one_sentence(
    models: Any, stub: Callable[..., Stub], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("hi")
    assert main(["--url", stub(models=models).url]) == 1
    assert "the Messages API" in sentence(capsys)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("data: not JSON\n\n", "the server streams what is not the Messages API"),
        ("data: [DONE]\n\n", "the server streams what is not the Messages API"),
        ("data: 7\n\n", "the server streams what is not the Messages API"),
        ("data: {}\n\n", "the server streams what is not the Messages API"),
        ((200, "text/html", "<html>Hello</html>"), "the answer broke off before its end"),
        (stream(text("Hel")), "the answer broke off before its end"),
        (stream({"type": "error", "error": {"message": "Tired"}}), "Tired\n"),
        (stream({"type": "error", "error": "Tired"}), "it failed\n"),
        (stream({"type": "content_block_delta", "delta": 7}, STOP), "the model said nothing"),
        ((502, "text/html", "<html>"), "the server answered 502"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(
    messages: Any,
    said: str,
    stub: Callable[..., Stub],
    typed: Type,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed("hi")
    assert main(["--url", stub(messages=messages).url]) == 1
    assert sentence(capsys).startswith(said)


def test_a_failed_question_is_not_repeated(
    stub: Callable[..., Stub], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    server = stub(messages=stream({"type": "error", "error": {"message": "Tired"}}))
    typed("one", "two", terminal=True)
    assert main(["--url", server.url]) == 0
    assert [len(body["messages"]) for body in server.asked] == [1, 1]
    assert capsys.readouterr().err.count("[Tired]") == 2


def test_bytes_that_are_no_text_are_one_sentence_and_not_sent(
    stub: Callable[..., Stub], typed: Type, capsys: pytest.CaptureFixture[str]
) -> None:
    server = stub()
    typed(b"\xff\xfe")
    assert main(["--url", server.url]) == 1
    assert sentence(capsys) == "that line is not UTF-8 text; it was not sent\n"
    assert server.asked == []


def test_a_reader_that_leaves_early_ends_it_quietly(serve: Callable[..., Any]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "chat", "--url", serve().url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate("Write a senryu.\n", timeout=60)
    assert process.returncode == 141
    assert said == ""
