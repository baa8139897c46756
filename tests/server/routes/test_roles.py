"""What a key may do is its role's: users ask, batch keys only work through batches, admins do all
and alone see what is the operator's."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller

EVERYBODY = {"admin", "user", "batch"}
MAY = [
    ("POST", "/v1/messages", {"admin", "user"}),
    (
        "POST",
        "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict",
        {"admin", "user"},
    ),
    ("POST", "/v1/messages/count_tokens", EVERYBODY),
    ("GET", "/v1/models", EVERYBODY),
    ("GET", "/metrics", {"admin"}),
    ("GET", "/v1/organizations/usage_report/messages", {"admin"}),
    ("GET", "/v1/organizations/cost_report", {"admin"}),
    ("GET", "/v1/messages/batches", EVERYBODY),
    ("GET", "/v1/files", EVERYBODY),
]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of a server with a key of each role, called like it."""
    app = build_app(
        ServerSettings(engine="scripted", signing_key="the tests' own", database="none"),
        ScriptedEngine(),
    )
    stored = {
        hashlib.sha256(role.encode()).digest(): Caller(name=role, salt=role, role=role)  # type: ignore[arg-type]
        for role in EVERYBODY
    }
    app.state.callers.learn(stored)  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://senryu.test") as client:
        yield client


@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize(("method", "path", "may"), MAY)
async def test_a_role_may_what_it_is_for_and_is_told_so_where_it_may_not(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    method: str,
    path: str,
    may: set[str],
    role: str,
) -> None:
    sent = {"content": None} if method == "GET" else {"json": body}
    answer = await client.request(method, path, headers={"x-api-key": role}, **sent)
    if role in may:
        assert answer.status_code not in (401, 403)
        return
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["type"] == "permission_error"
    assert repr(role) in error["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("method", "path", "may"), MAY)
async def test_without_a_key_nobody_gets_as_far_as_roles(
    client: httpx.AsyncClient, method: str, path: str, may: set[str]
) -> None:
    assert (await client.request(method, path)).status_code == 401
