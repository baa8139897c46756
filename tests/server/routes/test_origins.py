"""Web pages ask only where the operator lets them; other clients never notice (4.4)."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]

PAGE = "http://localhost:3000"


def preflight(origin: str, **more: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,anthropic-version,x-of-my-own",
    } | more


def refused(reply: httpx.Response) -> bool:
    """Whether the page was turned away, with an error like every other."""
    if reply.status_code != 401:
        return False
    error = reply.json()["error"]
    assert error["type"] == "authentication_error"
    assert error["message"].startswith("CORS requests are not allowed for this ")
    assert "cors_origins" in error["message"]
    assert reply.json()["request_id"] == reply.headers["request-id"]
    assert reply.headers["x-should-retry"] == "false"
    assert "access-control-allow-origin" not in reply.headers  # so the browser shows it nothing
    return True


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "file://", "app://desk", "", "http://127.0.0.1:3000", "é"],
)
@pytest.mark.parametrize("settings", [{}, {"cors_origins": (PAGE,)}, {"api_key": "k"}])
async def test_a_page_that_is_not_allowed_is_turned_away_before_anything_is_read(
    origin: str, settings: dict[str, Any], client_for: ClientFor
) -> None:
    client = client_for(body_limit_mb=0.001, **settings)
    headers = {b"origin": origin.encode(), b"x-api-key": b"k"}
    for method, path in (
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/messages"),
    ):
        assert refused(await client.request(method, path, headers=headers, content=b"{" * 5000))
    asking = {name.encode(): value.encode() for name, value in preflight("").items()}
    assert refused(await client.options("/v1/messages", headers=asking | headers))


async def test_an_allowed_page_is_answered_and_may_read_what_it_needs(
    client_for: ClientFor, body: Body
) -> None:
    client = client_for(cors_origins=(PAGE, "app://desk"))
    for origin in (PAGE, "app://desk"):
        for asked in (body, body | {"stream": True}, body | {"max_tokens": -1}):
            reply = await client.post("/v1/messages", json=asked, headers={"origin": origin})
            assert reply.status_code == (400 if asked["max_tokens"] < 0 else 200)
            assert reply.headers["access-control-allow-origin"] == origin
            assert "Origin" in reply.headers["vary"]
            shown = reply.headers["access-control-expose-headers"].split(", ")
            assert {"request-id", "retry-after", "retry-after-ms", "x-should-retry"} <= set(shown)
            assert "senryu-ignored" in shown
            assert len(reply.headers.get_list("request-id")) == 1


async def test_our_own_failure_is_told_to_the_page_too(
    client_for: ClientFor, body: Body, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> bool:
        raise RuntimeError

    monkeypatch.setattr(engine, "healthy", broken)
    client = client_for(engine, cors_origins=(PAGE,))
    reply = await client.post("/v1/messages", json=body, headers={"origin": PAGE})
    assert reply.status_code == 500
    assert reply.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models"])
async def test_a_preflight_needs_no_key_and_may_send_every_header(
    path: str, client_for: ClientFor
) -> None:
    client = client_for(cors_origins=(PAGE,), api_key="k")
    reply = await client.options(path, headers=preflight(PAGE))
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    allowed = reply.headers["access-control-allow-headers"]
    assert allowed == "authorization,anthropic-version,x-of-my-own"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["request-id"].startswith("req_")


async def test_a_preflight_for_a_method_that_is_none_is_refused_in_our_shape(
    client_for: ClientFor,
) -> None:
    client = client_for(cors_origins=(PAGE,))
    asking = preflight(PAGE) | {"access-control-request-method": "BREW"}
    reply = await client.options("/v1/messages", headers=asking)
    assert reply.status_code == 405
    assert reply.json()["error"]["message"] == "BREW is not allowed here"
    assert reply.json()["request_id"] == reply.headers["request-id"]


@pytest.mark.parametrize("allowed", [PAGE, "http://localhost:*", "*"])
async def test_an_allowed_page_may_reach_into_a_private_network(
    allowed: str, client_for: ClientFor
) -> None:
    client = client_for(cors_origins=(allowed,))
    private = {"access-control-request-private-network": "true"}
    reply = await client.options("/v1/messages", headers=preflight(PAGE) | private)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert reply.headers["access-control-allow-headers"].startswith("authorization,")
    reply = await client.options("/v1/messages", headers=preflight(PAGE))
    assert "access-control-allow-private-network" not in reply.headers
    if allowed != "*":
        other = preflight("https://evil.example") | private
        assert refused(await client.options("/v1/messages", headers=other))


@pytest.mark.parametrize(
    ("pattern", "origin", "others"),
    [
        ("vscode-webview://*", "vscode-webview://0f3k", ["vscode-file://0f3k", "http://0f3k.test"]),
        ("http://localhost:*", "http://localhost:3000", ["http://localhost.test:3000"]),
        ("https://*.home.example", "https://a.home.example", ["https://home.example"]),
        ("http://[::1]:3000", "http://[::1]:3000", ["http://[::1]:3001"]),
    ],
)
async def test_a_pattern_lets_all_pages_ask_that_fit_it(
    pattern: str, origin: str, others: list[str], client_for: ClientFor, body: Body
) -> None:
    client = client_for(cors_origins=(pattern,))
    reply = await client.post("/v1/messages", json=body, headers={"origin": origin})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, origin)
    assert (await client.options("/v1/models", headers=preflight(origin))).status_code == 200
    for other in others:
        assert refused(await client.post("/v1/messages", json=body, headers={"origin": other}))
        assert refused(await client.options("/v1/models", headers=preflight(other)))


@pytest.mark.parametrize("origin", ["https://any.example", "null", "file://", "app://desk"])
async def test_a_star_lets_every_page_ask(origin: str, client_for: ClientFor, body: Body) -> None:
    client = client_for(cors_origins=("*",))
    reply = await client.post("/v1/messages", json=body, headers={"origin": origin})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert (await client.options("/v1/models", headers=preflight(origin))).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "192.0.2.7:8765", "localhost"]
)
async def test_a_page_of_this_very_server_may_ask(host: str, client: httpx.AsyncClient) -> None:
    for scheme in ("http", "https"):
        headers = {"host": host, "origin": f"{scheme}://{host}"}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
    headers["origin"] = f"http://{host}1"
    assert refused(await client.get("/v1/models", headers=headers))


async def test_without_a_key_a_name_that_leads_here_is_not_believed(
    client_for: ClientFor,
) -> None:
    """Whoever owns a name can point it at this machine after the page was loaded."""
    headers = {"host": "evil.example:8765", "origin": "http://evil.example:8765", "x-api-key": "k"}
    assert refused(await client_for().get("/v1/models", headers=headers))
    with_key = client_for(api_key="k")
    assert (await with_key.get("/v1/models", headers=headers)).status_code == 200


async def test_a_client_that_only_says_it_is_a_browser_is_no_page(
    client: httpx.AsyncClient, body: Body
) -> None:
    headers = {"anthropic-dangerous-direct-browser-access": "true"}
    reply = await client.post("/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("host", ["[", "[::1", "a b", ""])
async def test_a_host_that_cannot_be_is_nobodys_own(host: str, client: httpx.AsyncClient) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert refused(await client.get("/v1/models", headers=headers))
