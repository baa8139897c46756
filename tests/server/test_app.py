"""Every response has its id, and every error the one shape, whatever is thrown at the server."""

import copy
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]


def check_error(reply: httpx.Response) -> dict[str, Any]:
    """The shape that every error has; its `error` part."""
    assert 400 <= reply.status_code < 600
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == reply.headers["request-id"]
    error: dict[str, Any] = body["error"]
    assert error.keys() <= {"type", "message", "details"}
    assert isinstance(error["type"], str)
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


# --- the id ------------------------------------------------------------------------------------


async def test_every_response_has_an_id_of_its_own(client_for: ClientFor, body: Body) -> None:
    client = client_for(api_key="k", body_limit_mb=0.01)
    key = {"x-api-key": "k"}
    replies = [
        await client.get("/"),
        await client.get("/health"),
        await client.get("/v1/models", headers=key),
        await client.post("/v1/messages", json=body, headers=key),
        await client.post("/v1/messages", json=body | {"stream": True}, headers=key),
        await client.post("/v1/messages", json=body),
        await client.post("/v1/messages", content=b"x" * 20_000, headers=key),
        await client.get("/v1/messages", headers=key),
        await client.get("/nowhere"),
        await client.options("/v1/messages"),
    ]
    assert [reply.status_code for reply in replies] == (
        [200, 200, 200, 200, 200, 401, 413, 405, 404, 405]
    )
    ids = [reply.headers.get_list("request-id") for reply in replies]
    assert all(len(each) == 1 and each[0].startswith("req_01") for each in ids)
    assert len({each[0] for each in ids}) == len(replies)
    for reply in replies[5:]:
        check_error(reply)


@pytest.mark.parametrize("stream", [False, True])
async def test_our_own_bug_is_a_500_with_an_id_and_tells_nothing(
    stream: bool, body: Body, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(ScriptedEngine):
        async def healthy(self) -> bool:
            raise RuntimeError("secret")

    app = build_app(ServerSettings(signing_key="k"), Buggy())
    transport = httpx.ASGITransport(app)  # which raises what the HTTP server would log once more
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        reply = await client.post("/v1/messages", json=body | {"stream": stream})
    assert reply.status_code == 500
    error = check_error(reply)
    assert error == {"type": "api_error", "message": "Internal server error"}
    (record,) = caplog.records
    assert reply.headers["request-id"] in record.getMessage()
    assert record.exc_info


# --- the router's own refusals -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/complete",
        "/v1",
        "/v1/message",
        "/v1/messages/",
        "/v1/messages/batches",
        "/v1/files",
        "/v1/oauth/token",
        "/api/event_logging/batch",
        "/v1/organizations/x",
        "/docs",
        "/%00",
        "/v1/messages/../../etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_a_404(method: str, path: str, client: httpx.AsyncClient) -> None:
    reply = await client.request(method, path, json={})
    assert reply.status_code == 404
    assert check_error(reply)["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/messages", "POST"),
        ("DELETE", "/v1/messages", "POST"),
        ("PUT", "/v1/messages/count_tokens", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/scripted", "GET"),
        ("POST", "/health", "GET"),
    ],
)
async def test_a_wrong_method_is_a_405_that_names_the_right_one(
    method: str, path: str, allowed: str, client: httpx.AsyncClient
) -> None:
    reply = await client.request(method, path)
    assert reply.status_code == 405
    error = check_error(reply)
    assert error["type"] == "invalid_request_error"
    assert error["message"] == f"{method} is not allowed on {path}"
    assert allowed in reply.headers["allow"]


# --- whatever is thrown at it ------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "user", "assistant", "system", "text", "ephemeral", "scripted", "auto"])
)
NAMES = """
    model messages max_tokens system stream role content type text tools tool_choice thinking
    cache_control output_config metadata thread source input name id
"""
KEYS = st.text(max_size=5) | st.sampled_from(NAMES.split())
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)

RICH: Body = {
    "model": "scripted",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": "x"}],
                },
                {"type": "image", "source": {"type": "url", "url": "https://example.org"}},
            ],
        },
    ],
    "stop_sequences": ["\n\n"],
    "temperature": 0.5,
    "stream": False,
    "tools": [{"name": "ls", "input_schema": {"type": "object", "properties": {}}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "metadata": {"user_id": "u"},
    "cache_control": {"type": "ephemeral"},
    "context_management": {"edits": []},
}
PLAIN = {name: RICH[name] for name in ("model", "max_tokens", "stop_sequences", "temperature")} | {
    "messages": RICH["messages"][:2],
    "system": RICH["system"],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside `value`, as the keys that lead there."""
    below = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [path] * bool(path) + [
        place for key, inner in below for place in places(inner, (*path, key))
    ]


@st.composite
def mutations(draw: st.DrawFn) -> Any:
    """A good body with some of its places removed, replaced, renamed or doubled."""
    body = copy.deepcopy(draw(st.sampled_from([PLAIN, RICH])))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(body) or [("model",)]))
        inner: Any = body
        for key in path:
            inner = inner[key]
        match draw(st.sampled_from(["remove", "replace", "add", "double"])):
            case "remove":
                inner.pop(last, None) if isinstance(inner, dict) else inner.pop(last)
            case "replace":
                inner[last] = draw(JSON)
            case "add" if isinstance(inner, dict):
                inner[draw(KEYS)] = draw(JSON)
            case _ if isinstance(inner, list):
                inner.append(copy.deepcopy(inner[last]))
            case _:
                inner[last] = [inner.get(last)]
    return body


BODIES = (mutations() | JSON).map(json.dumps).map(str.encode) | st.binary(max_size=30)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=BODIES)
async def test_no_body_brings_down_the_server_or_gets_another_frameworks_error(
    path: str, content: bytes, client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    reply = await client.post(path, content=content)
    if reply.status_code == 200:
        assert reply.content
    else:
        assert reply.status_code in (400, 404)
        error = check_error(reply)
        assert error["type"] in ("invalid_request_error", "not_found_error")
    assert not engine.active


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]),
    path=st.lists(
        st.sampled_from(["v1", "messages", "models", "count_tokens", "health", "api", "hello"])
        | st.text(max_size=5).map(lambda text: quote(text, safe="")),
        max_size=4,
    ),
)
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_path_or_method_brings_it_down(
    method: str, path: list[str], client: httpx.AsyncClient
) -> None:
    reply = await client.request(method, "http://senryu.test/" + "/".join(path))
    assert reply.headers["request-id"]
    assert reply.status_code < 500
    if reply.status_code >= 400 and method != "HEAD":
        check_error(reply)


@given(
    name=st.sampled_from(
        ["anthropic-version", "content-encoding", "x-api-key", "authorization", "anthropic-beta"]
    ),
    value=st.binary(max_size=20),
)
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_header_brings_it_down(
    name: str, value: bytes, client_for: ClientFor, body: Body
) -> None:
    client = client_for(api_key="k")
    headers = [(b"x-api-key", b"k"), (name.encode(), value)]
    reply = await client.post("/v1/messages", json=body, headers=headers)
    assert reply.status_code < 500
    if reply.status_code >= 400:
        check_error(reply)
