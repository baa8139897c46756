"""Whoever knocks hears whether anybody is at home."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from senryu.server.engine.scripted import ScriptedEngine


@pytest.mark.parametrize("path", ["/", "/api/hello"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_knock_is_answered_without_a_body(
    method: str, path: str, client: httpx.AsyncClient
) -> None:
    reply = await client.request(method, path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["request-id"].startswith("req_")


async def test_a_healthy_server_says_what_it_serves(client: httpx.AsyncClient) -> None:
    reply = await client.get("/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok", "model": "scripted"})
    assert (await client.head("/health")).status_code == 200


async def test_a_dead_engine_is_a_500_for_operators_and_for_requests(
    client_for: Callable[..., httpx.AsyncClient], body: dict[str, Any]
) -> None:
    class Dead(ScriptedEngine):
        async def healthy(self) -> bool:
            return False

    client = client_for(Dead())
    for reply in (
        await client.get("/health"),
        await client.post("/v1/messages", json=body),
        await client.post("/v1/messages", json=body | {"stream": True}),
    ):
        assert reply.status_code == 500
        assert reply.json()["error"] == {
            "type": "api_error",
            "message": "The engine has stopped; restart the server",
        }
