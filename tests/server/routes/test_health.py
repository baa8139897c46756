"""Whoever knocks hears whether anybody is at home."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineGone, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.prompt import Prompt


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


class Dead(ScriptedEngine):
    """Dies before its first token, and nobody opens it again unless told when."""

    def __init__(self, back_in: int | None = None) -> None:
        super().__init__()
        self._back_in = back_in

    async def healthy(self) -> bool:
        return False

    def back_in(self) -> int | None:
        return self._back_in

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        raise EngineGone(self._back_in)
        yield


async def test_a_dead_engine_is_a_500_for_operators_and_for_requests(
    client_for: Callable[..., httpx.AsyncClient], body: dict[str, Any]
) -> None:
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


async def test_one_that_is_opened_again_is_a_503_that_says_when_to_come_back(
    client_for: Callable[..., httpx.AsyncClient], body: dict[str, Any]
) -> None:
    client = client_for(Dead(back_in=42))
    for reply in (
        await client.get("/health"),
        await client.post("/v1/messages", json=body),
        await client.post("/v1/messages", json=body | {"stream": True}),
    ):
        assert reply.status_code == 503
        assert reply.json()["error"]["type"] == "overloaded_error"
        assert reply.headers["retry-after"] == "42"
