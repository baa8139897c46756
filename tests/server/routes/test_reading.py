"""Credentials, API versions and bodies are checked as the contract says, in its order."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import Request

from senryu.server.routes.reading import betas
from senryu.server.settings import ServerSettings
from senryu.server.wire.errors import InvalidRequest

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]

KEY = "sk-senryu-123"
ROUTES = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/scripted"),
]


def error(reply: httpx.Response) -> tuple[int, str, str]:
    body = reply.json()
    assert body["type"] == "error"
    assert body["request_id"] == reply.headers["request-id"]
    return reply.status_code, body["error"]["type"], body["error"]["message"]


def code(reply: httpx.Response) -> str | None:
    found: str | None = reply.json()["error"].get("details", {}).get("error_code")
    return found


# --- credentials -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"X-Api-Key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"BEARER   {KEY} "},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, "authorization": "Bearer wrong"},
        {"x-api-key": KEY, "authorization": "Basic d3Jvbmc6"},
    ],
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_either_header_may_carry_the_key(
    method: str, path: str, headers: dict[str, str], client_for: ClientFor, body: Body
) -> None:
    if path.endswith("count_tokens"):
        body.pop("max_tokens")
    reply = await client_for(api_key=KEY).request(method, path, headers=headers, json=body)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "x-api-key header is required"),
        ({"x-api-key": ""}, "x-api-key header is required"),
        ({"authorization": "Bearer"}, "x-api-key header is required"),
        ({"authorization": f"Basic {KEY}"}, "x-api-key header is required"),
        ({"x-api-key": "wrong"}, "invalid x-api-key"),
        ({"x-api-key": KEY + "4"}, "invalid x-api-key"),
        ({"x-api-key": KEY[:-1]}, "invalid x-api-key"),
        ({"x-api-key": KEY.upper()}, "invalid x-api-key"),
        ({"authorization": "Bearer wrong"}, "invalid x-api-key"),
        ({"x-api-key": "wrong", "authorization": "Bearer also"}, "invalid x-api-key"),
    ],
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_missing_or_wrong_key_is_a_401_that_is_not_tried_again(
    method: str, path: str, headers: dict[str, str], message: str, client_for: ClientFor
) -> None:
    reply = await client_for(api_key=KEY).request(method, path, headers=headers)
    assert error(reply) == (401, "authentication_error", message)
    assert reply.headers["x-should-retry"] == "false"


async def test_without_a_key_every_credential_and_none_will_do(
    client: httpx.AsyncClient, body: Body
) -> None:
    for headers in ({}, {"x-api-key": "any"}, {"authorization": "Bearer any"}):
        assert (await client.post("/v1/messages", json=body, headers=headers)).status_code == 200


async def test_a_key_with_letters_beyond_ascii_is_a_key(client_for: ClientFor) -> None:
    client = client_for(api_key="clé")
    headers = {b"x-api-key": "clé".encode()}
    assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/", "/api/hello"])
async def test_signs_of_life_need_no_key(path: str, client_for: ClientFor) -> None:
    assert (await client_for(api_key=KEY).get(path)).status_code == 200


async def test_the_credential_is_checked_before_version_size_and_json(
    client_for: ClientFor,
) -> None:
    client = client_for(api_key=KEY, body_limit_mb=0.001)
    headers = {"anthropic-version": "never"}
    reply = await client.post("/v1/messages", content=b"{" * 5000, headers=headers)
    assert reply.status_code == 401
    headers["x-api-key"] = KEY
    reply = await client.post("/v1/messages", content=b"{" * 5000, headers=headers)
    assert error(reply)[2].startswith("anthropic-version: 'never'")
    headers["anthropic-version"] = "2023-06-01"
    reply = await client.post("/v1/messages", content=b"{" * 5000, headers=headers)
    assert reply.status_code == 413


# --- API versions ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "2023-01-01", "2023-06-01", "2026-10-21"])
async def test_every_known_version_and_none_is_served(
    version: str | None, client: httpx.AsyncClient, body: Body
) -> None:
    headers = {"anthropic-version": version} if version else {}
    reply = await client.post("/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_strict_server_wants_to_be_told_the_version(
    path: str, client_for: ClientFor, body: Body
) -> None:
    client = client_for(strict=True)
    reply = await client.post(path, json=body)
    assert error(reply) == (400, "invalid_request_error", "anthropic-version: header is required")
    for version in ("2023-06-01", "2026-10-21"):
        reply = await client.post(path, json=body, headers={"anthropic-version": version})
        assert reply.status_code == 200


@pytest.mark.parametrize("version", ["2024-01-01", "latest", "", "2023-06-01x"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_an_unknown_version_is_refused_by_name(
    version: str, path: str, client: httpx.AsyncClient, body: Body
) -> None:
    reply = await client.post(path, json=body, headers={"anthropic-version": version})
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith(f"anthropic-version: {version!r} is not a valid version")


KNOBS = [("temperature", 1), ("top_p", 0.9), ("top_k", 5)]


@pytest.mark.parametrize(("name", "value"), KNOBS)
@pytest.mark.parametrize("version", [None, "2023-01-01", "2023-06-01"])
async def test_classic_versions_honour_sampling(
    version: str | None, name: str, value: float, client: httpx.AsyncClient, body: Body
) -> None:
    headers = {"anthropic-version": version} if version else {}
    reply = await client.post("/v1/messages", json=body | {name: value}, headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize(("name", "value"), KNOBS)
async def test_the_current_version_refuses_sampling_unless_the_operator_is_lenient(
    name: str, value: float, client_for: ClientFor, body: Body
) -> None:
    headers = {"anthropic-version": "2026-10-21"}
    asked = body | {name: value}
    reply = await client_for().post("/v1/messages", json=asked, headers=headers)
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith(f"{name}: ")
    lenient = client_for(lenient_sampling=True)
    assert (await lenient.post("/v1/messages", json=asked, headers=headers)).status_code == 200


async def test_betas_and_other_headers_are_let_pass(client: httpx.AsyncClient, body: Body) -> None:
    headers = {
        "anthropic-beta": "unknown-2030-01-01, token-counting-2024-11-01",
        "anthropic-dangerous-direct-browser-access": "true",
        "x-stainless-retry-count": "0",
        "traceparent": "00-0-0-00",
    }
    reply = await client.post("/v1/messages?beta=true&x=y", json=body, headers=headers)
    assert reply.status_code == 200


# --- betas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "spoken"),
    [
        ([], set()),
        (["a-1"], {"a-1"}),
        (["a-1,b-2", " c-3 ,, a-1,"], {"a-1", "b-2", "c-3"}),
        (["", " , "], set()),
    ],
)
def test_betas_are_read_from_all_headers(headers: list[str], spoken: set[str]) -> None:
    assert betas(asking(*headers), ServerSettings()) == spoken


def asking(*headers: str) -> Request:
    """A request with these `anthropic-beta` headers."""
    named = [(b"anthropic-beta", header.encode()) for header in headers]
    return Request({"type": "http", "headers": named})


def test_a_flood_of_betas_takes_no_time() -> None:
    flood = ",".join(f"b{number}" for number in range(20_000))
    begun = time.perf_counter()
    assert len(betas(asking(flood), ServerSettings())) == 20_000
    with pytest.raises(InvalidRequest, match="Unexpected value"):
        betas(asking(flood), ServerSettings(strict=True))
    assert time.perf_counter() - begun < 0.3


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_only_a_strict_server_refuses_unknown_betas_and_names_each(
    path: str, client_for: ClientFor, body: Body
) -> None:
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "zeta-2030-01-01, token-counting-2024-11-01,computer-use-2025-01-24, x",
    }
    assert (await client_for().post(path, json=body, headers=headers)).status_code == 200
    reply = await client_for(strict=True).post(path, json=body, headers=headers)
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith(
        "Unexpected value(s) `x`, `zeta-2030-01-01` for the `anthropic-beta` header. "
    )


async def test_what_claude_code_sends_is_known_to_a_strict_server(
    client_for: ClientFor, body: Body
) -> None:
    sent = [
        "claude-code-20250219",
        "interleaved-thinking-2025-05-14",
        "context-management-2025-06-27",
        "mid-conversation-tool-changes-2026-07-01",
        "thinking-token-count-2026-05-13",
        "advanced-tool-use-2025-11-20",
        "effort-2025-11-24",
    ]
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": ",".join(sent)}
    reply = await client_for(strict=True).post("/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200


# --- bodies ------------------------------------------------------------------------------------

SMALL = {"body_limit_mb": 1 / 64}  # 16 KiB


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_body_over_the_limit_is_a_413(path: str, client_for: ClientFor) -> None:
    reply = await client_for(**SMALL).post(path, content=b" " * (2**14 + 1))
    status, kind, message = error(reply)
    assert (status, kind) == (413, "request_too_large")
    assert "0.015625 MB" in message


async def test_a_body_as_large_as_the_limit_is_read(client_for: ClientFor, body: Body) -> None:
    padded = json.dumps(body).encode().ljust(2**14)
    assert (await client_for(**SMALL).post("/v1/messages", content=padded)).status_code == 200


async def test_a_body_of_unannounced_length_is_cut_off_at_the_limit(
    client_for: ClientFor,
) -> None:
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2**20:
            sent += 4096
            yield b" " * 4096

    reply = await client_for(**SMALL).post("/v1/messages", content=long())
    assert error(reply)[:2] == (413, "request_too_large")
    assert sent <= 2**14 + 2 * 4096


async def test_a_body_in_pieces_is_put_together(client: httpx.AsyncClient, body: Body) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(body).encode():
            yield bytes([byte])

    assert (await client.post("/v1/messages", content=pieces())).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
async def test_a_gzipped_body_is_unpacked(
    encoding: str, client: httpx.AsyncClient, body: Body
) -> None:
    packed = gzip.compress(json.dumps(body).encode())
    headers = {"content-encoding": encoding}
    reply = await client.post("/v1/messages", content=packed, headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "x"])
async def test_an_unknown_encoding_is_refused_by_name(
    encoding: str, client: httpx.AsyncClient, body: Body
) -> None:
    headers = {"content-encoding": encoding}
    reply = await client.post("/v1/messages", json=body, headers=headers)
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith(f"content-encoding: {encoding!r}")
    assert code(reply) == "request_body_encoding_unsupported"


GOOD = gzip.compress(b'{"model": "scripted"}', mtime=0)


@pytest.mark.parametrize(
    "packed",
    [
        b"{}",
        b"",
        zlib.compress(b"{}"),
        GOOD[:-1],
        GOOD[:-8],
        GOOD[: len(GOOD) // 2],
        GOOD[:-6] + b"\0\0" + GOOD[-4:],
        GOOD + b"trailing",
        GOOD + GOOD[:-1],
    ],
    ids=[
        "plain",
        "empty",
        "zlib",
        "one byte short",
        "no trailer",
        "half",
        "wrong checksum",
        "something behind it",
        "a second member cut short",
    ],
)
async def test_a_corrupt_or_cut_gzip_body_is_refused(
    packed: bytes, client: httpx.AsyncClient
) -> None:
    headers = {"content-encoding": "gzip"}
    reply = await client.post("/v1/messages", content=packed, headers=headers)
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith("content-encoding: ")
    assert code(reply) == "request_body_encoding_invalid"


async def test_a_gzipped_body_may_have_several_members(
    client: httpx.AsyncClient, body: Body
) -> None:
    """RFC 1952, 2.2: a gzip file is a series of members."""
    plain = json.dumps(body).encode()
    packed = b"".join(gzip.compress(plain[at : at + 7]) for at in range(0, len(plain), 7))
    headers = {"content-encoding": "gzip"}
    reply = await client.post("/v1/messages", content=packed, headers=headers)
    assert reply.status_code == 200


async def test_the_limit_is_for_all_members_together(client_for: ClientFor) -> None:
    packed = gzip.compress(b" " * 2**13) * 2
    headers = {"content-encoding": "gzip"}
    client = client_for(**SMALL)
    reply = await client.post("/v1/messages", content=packed, headers=headers)
    assert error(reply)[0] == 400  # it is read, and is no JSON
    packed += gzip.compress(b" ")
    reply = await client.post("/v1/messages", content=packed, headers=headers)
    assert code(reply) == "request_body_too_large_after_decoding"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_body_that_stops_arriving_is_a_408(path: str, client_for: ClientFor) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await asyncio.sleep(3600)

    reply = await client_for(body_seconds=0.05).post(path, content=stuck())
    status, kind, message = error(reply)
    assert (status, kind) == (408, "timeout_error")
    assert "0.05 seconds" in message
    assert reply.headers["connection"] == "close"


async def test_a_slow_body_that_keeps_arriving_is_waited_for(
    client_for: ClientFor, body: Body
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for byte in json.dumps(body).encode().ljust(100):
            await asyncio.sleep(0.01)
            yield bytes([byte])

    reply = await client_for(body_seconds=0.9).post("/v1/messages", content=slow())
    assert reply.status_code == 200


async def test_a_gzip_bomb_is_a_413(client_for: ClientFor) -> None:
    packed = gzip.compress(b" " * 2**20)
    assert len(packed) < 2**14
    headers = {"content-encoding": "gzip"}
    reply = await client_for(**SMALL).post("/v1/messages", content=packed, headers=headers)
    assert error(reply)[:2] == (413, "request_too_large")
    assert code(reply) == "request_body_too_large_after_decoding"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_json_is_json_whatever_its_content_type_says(
    content_type: str | None, client: httpx.AsyncClient, body: Body
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    content = json.dumps(body).encode()
    reply = await client.post("/v1/messages", content=content, headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff", b"null"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_body_that_is_no_json_object_is_a_400(
    content: bytes, path: str, client: httpx.AsyncClient
) -> None:
    reply = await client.post(path, content=content)
    status, kind, message = error(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith("The request body is not valid JSON: ")
