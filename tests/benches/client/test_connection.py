"""HTTP is read wherever it was cut, connections are kept, and what is wrong is told as a Fault."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from senryu.benches.client import connection as module
from senryu.benches.client.connection import Address, Connection, Connections, Fault, Reply
from senryu.benches.client.messages import MessagesReading
from senryu.benches.client.sample import Kind

Telling = Callable[..., Awaitable[Any]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"
CHUNKED = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS = (
    b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"b"}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
HANG_UP, RESET, WAIT = "hang up", "reset", "wait"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = chunk(b"")


async def asked(told: Any, times: int = 1, *, patience: float = 20.0) -> list[Reply]:
    """One after the other."""
    address = Address.of(told.url)
    replies = []
    async with Connections(address, patience=patience) as connections:
        for _ in range(times):
            reply = Reply(MessagesReading(None))
            await connections.ask(address.request("GET", "/", []), reply)
            replies.append(reply)
    return replies


async def until(happened: Callable[[], Any]) -> None:
    while not happened():  # noqa: ASYNC110 - what happens elsewhere sets no event
        await asyncio.sleep(0.001)


async def fault(told: Any, *, patience: float = 20.0) -> tuple[Kind, str]:
    with pytest.raises(Fault) as caught:
        await asked(told, patience=patience)
    return caught.value.kind, caught.value.text


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a.test", Address(host="a.test", port=80, tls=False)),
        ("https://a.test/", Address(host="a.test", port=443, tls=True)),
        ("http://127.0.0.1:8765/v1", Address(host="127.0.0.1", port=8765, tls=False)),
        ("http://[::1]:1/x/y/", Address(host="::1", port=1, tls=False, prefix="/x/y")),
        ("https://a.test/x/v1/", Address(host="a.test", port=443, tls=True, prefix="/x")),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert Address.of(url) == address


@pytest.mark.parametrize("url", ["", "a.test:80", "ftp://a.test", "http://", "http://a.test:x"])
def test_what_is_no_address_is_told_in_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Address.of(url)


def test_a_request_names_its_host_and_stands_under_its_prefix() -> None:
    request = Address.of("http://[::1]:9/x").request("POST", "/v1/messages", [("a", "b")], b"{}")
    head, body = request.split(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first == b"POST /x/v1/messages HTTP/1.1"
    assert {b"host: [::1]:9", b"a: b", b"content-length: 2", b"accept-encoding: identity"} <= set(
        headers
    )
    assert body == b"{}"
    assert b"host: a.test\r\n" in Address.of("https://a.test").request("GET", "/", [])


@pytest.mark.parametrize("value", ["a\r\nb: c", "é", "a\n"])
def test_a_key_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="x-api-key"):
        Address.of("http://a.test").request("GET", "/", [("x-api-key", value)])


class Wire:
    """A transport that goes nowhere."""

    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool:
        return False


async def received(pieces: list[bytes], *, closes: bool) -> tuple[Any, ...]:
    """What is read of bytes that come in these pieces."""
    connection, reader = Connection(), MessagesReading(None)
    reply = Reply(reader)
    connection.connection_made(cast(asyncio.Transport, Wire()))
    exchange = asyncio.ensure_future(connection.exchange(b"", reply, 20.0))
    await asyncio.sleep(0)
    for piece in pieces:
        if piece:
            connection.data_received(piece)
    if closes:
        connection.connection_lost(None)
    try:
        await exchange
        problem = None
    except Fault as error:
        problem = (error.kind, error.text)
    pieces_read = 0 if reader.first_token is None else len(reader.gaps) + 1
    return reply.status, reply.streams, reply.text, problem, pieces_read, reader.over


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


REPLIES = {
    "a stream, an event a chunk": (CHUNKED + b"".join(map(chunk, EVENTS)) + LAST, False),
    "a stream, chunks across events": (
        CHUNKED + chunk(b"".join(EVENTS)[:70]) + chunk(b"".join(EVENTS)[70:]) + LAST,
        False,
    ),
    "a stream to the end of the connection": (STREAM + b"\r\n" + b"".join(EVENTS), True),
    "a stream that breaks off": (CHUNKED + chunk(EVENTS[0]) + chunk(EVENTS[1]), True),
    "no stream": (OK, False),
    "a text to the end of the connection": (HEAD + b"\r\nsome words", True),
    "a word before the reply": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, False),
    "with trailers": (CHUNKED + chunk(EVENTS[0]) + b"0\r\ncontent-type: x\r\n\r\n", False),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", True),
    "no HTTP later": (CHUNKED + chunk(EVENTS[0]) + b"nothing\r\n", True),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_one_cut_changes_nothing_wherever_it_is(name: str) -> None:
    data, closes = REPLIES[name]
    whole = await received([data], closes=closes)
    for place in range(len(data)):
        assert await received(cut(data, [place]), closes=closes) == whole


@given(name=st.sampled_from(sorted(REPLIES)), places=st.lists(st.integers(0, 600)))
def test_no_number_of_cuts_changes_anything(name: str, places: list[int]) -> None:
    data, closes = REPLIES[name]
    places = sorted(min(place, len(data)) for place in places)

    async def both() -> tuple[Any, Any]:
        pieces = cut(data, places)
        return await received(pieces, closes=closes), await received([data], closes=closes)

    in_pieces, whole = asyncio.run(both())
    assert in_pieces == whole


async def test_a_stream_is_read_to_its_end(telling: Telling) -> None:
    told = await telling((CHUNKED, *map(chunk, EVENTS), LAST))
    (reply,) = await asked(told)
    assert (reply.status, reply.streams, reply.over) == (200, True, True)


async def test_a_connection_is_kept_and_used_again(telling: Telling) -> None:
    told = await telling(OK)
    replies = await asked(told, 3)
    assert [reply.text for reply in replies] == [b"ok"] * 3
    assert told.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        (OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), HANG_UP),
        (HEAD + b"\r\nok", HANG_UP),
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
        OK + b"no HTTP",
    ],
)
async def test_a_connection_is_not_kept_where_that_would_not_do(
    telling: Telling, reply: Any
) -> None:
    told = await telling(reply)
    assert [each.text for each in await asked(told, 2)] == [b"ok"] * 2
    assert told.connections == 2


@pytest.mark.parametrize("end", [HANG_UP, RESET])
async def test_what_a_kept_connection_did_not_answer_is_sent_once_more(
    telling: Telling, end: str
) -> None:
    told = await telling(OK, (end,), OK)
    assert [reply.text for reply in await asked(told, 2)] == [b"ok"] * 2
    assert (len(told.requests), told.connections) == (3, 2)


async def test_it_is_not_sent_a_third_time(telling: Telling) -> None:
    told = await telling(OK, (HANG_UP,))
    with pytest.raises(Fault, match="closed without a reply") as caught:
        await asked(told, 2)
    assert caught.value.kind == "unreachable"
    assert len(told.requests) == 3


async def test_a_connection_that_was_closed_meanwhile_is_not_used(telling: Telling) -> None:
    told = await telling((OK, HANG_UP))
    address = Address.of(told.url)
    async with Connections(address, patience=20.0) as connections:
        for _ in range(2):
            await connections.ask(address.request("GET", "/", []), Reply())
            await until(lambda: not connections._open)
    assert (len(told.requests), told.connections) == (2, 2)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ((HANG_UP,), "unreachable", "without a reply"),
        ((RESET,), "unreachable", "without a reply"),
        ((HEAD, HANG_UP), "cut off", "within the reply's head"),
        ((CHUNKED + chunk(EVENTS[0]), HANG_UP), "cut off", "within the reply"),
        ((CHUNKED + chunk(EVENTS[0]), RESET), "cut off", "within the reply"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "garbled", "no HTTP"),
        ((CHUNKED, b"nothing"), "garbled", "no HTTP"),
        (HEAD + b"x: y\r\n" * 50_000, "garbled", "a head of more than"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "garbled", "HTTP"),
    ],
)
async def test_a_bad_reply_is_a_fault(telling: Telling, reply: Any, kind: Kind, text: str) -> None:
    found, said = await fault(await telling(reply))
    assert found == kind
    assert text in said


@pytest.mark.parametrize("before", [(), (HEAD,), (CHUNKED + chunk(EVENTS[0]),)])
async def test_silence_ends_it(telling: Telling, before: tuple[bytes, ...]) -> None:
    told = await telling((*before, WAIT))
    assert await fault(told, patience=0.5) == ("silent", "nothing came for 0.5 seconds")


async def test_patience_is_for_silence_and_not_for_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    connection, reply = Connection(), Reply()
    connection.connection_made(cast(asyncio.Transport, Wire()))
    exchange = asyncio.ensure_future(connection.exchange(b"", reply, 0.01))
    for now in (0.0, 0.009, 0.018, 0.027):
        await asyncio.sleep(0.02)  # the clock on the wall is not what counts
        clock.now = now
        connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert not exchange.done()
    clock.now = 0.04
    with pytest.raises(Fault, match="nothing came"):
        await exchange


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    kind, _ = await fault(type("Nobody", (), {"url": f"http://127.0.0.1:{port}"}))
    assert kind == "unreachable"


@pytest.mark.parametrize("host", ["no-such-host.test", "a" * 64 + ".test", "a..test"])
async def test_a_name_that_leads_nowhere(host: str) -> None:
    kind, _ = await fault(type("Nobody", (), {"url": f"http://{host}"}))
    assert kind == "unreachable"


async def test_a_text_without_end_is_not_kept_whole(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.01)
    told = await telling((HEAD + b"\r\n", *([b"x" * 2**16] * 4), WAIT))
    (reply,) = await asked(told)
    assert len(reply.text) == 2**16


async def test_an_answer_that_ended_does_not_wait_for_its_reply_to_end(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.01)
    told = await telling((CHUNKED + chunk(b"".join(EVENTS)), WAIT))
    first, second = await asked(told, 2)
    assert first.over
    assert second.over
    assert told.connections == 2


async def test_who_is_cancelled_hangs_up(telling: Telling) -> None:
    told = await telling((CHUNKED + chunk(EVENTS[0]), WAIT))
    waiting = asyncio.create_task(asked(told))
    await until(lambda: told.requests)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: told.ended)


def certified(folder: Path) -> Path:
    """A file with a key, and a certificate of 127.0.0.1 that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    encoding = serialization.Encoding.PEM
    file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(encoding)
    )
    return file


async def test_tls_is_spoken_with_whom_the_system_trusts(
    telling: Telling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    told = await telling(OK, tls=context)
    kind, text = await fault(told)
    assert kind == "unreachable"
    assert "certificate" in text
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert [reply.text for reply in await asked(told, 2)] == [b"ok"] * 2
    assert len(told.requests) == 2


async def test_ipv6(telling: Telling) -> None:
    try:
        told = await telling(OK, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    (reply,) = await asked(told)
    assert reply.text == b"ok"
    assert told.requests[0][1]["host"].startswith("[::1]:")
