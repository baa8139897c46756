"""The Models API knows its one model by every name it answers to."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from senryu.server.engine.scripted import ScriptedEngine

ClientFor = Callable[..., httpx.AsyncClient]


async def test_the_list_holds_the_one_model(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/models")
    body = reply.json()
    assert reply.status_code == 200
    assert [model["id"] for model in body["data"]] == ["scripted"]
    assert body | {"data": None} == {
        "data": None,
        "has_more": False,
        "first_id": "scripted",
        "last_id": "scripted",
    }


async def test_a_model_is_the_same_alone_as_in_the_list(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"][0]
    alone = await client.get("/v1/models/scripted")
    assert (alone.status_code, alone.json()) == (200, listed)
    assert listed["max_input_tokens"] == 200_000


@pytest.mark.parametrize(
    "query",
    ["after_id=scripted", "before_id=scripted", "lifecycle[]=retired", "lifecycle[]=deprecated"],
)
async def test_there_is_nothing_after_or_before_it_and_none_that_is_retired(
    query: str, client: httpx.AsyncClient
) -> None:
    body = (await client.get(f"/v1/models?{query}")).json()
    assert body == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    "query",
    [
        "limit=1",
        "limit=1000",
        "beta=true",
        "lifecycle=active",
        "lifecycle[]=active",
        "lifecycle[]=retired&lifecycle[]=active",
    ],
)
async def test_a_page_may_have_any_allowed_size(query: str, client: httpx.AsyncClient) -> None:
    body = (await client.get(f"/v1/models?{query}")).json()
    assert len(body["data"]) == 1


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=²", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("after_id=a&before_id=b", "after_id"),
        ("lifecycle[]=active&lifecycle[]=young", "lifecycle.1"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(
    query: str, place: str, client: httpx.AsyncClient
) -> None:
    reply = await client.get(f"/v1/models?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"].startswith(f"{place}: ")


@pytest.mark.parametrize(
    "asked", ["claude-3-5-haiku-latest", "claude-haiku-4-5-20251001", "claude-haiku-9", "scripted"]
)
async def test_any_haiku_is_the_served_model(
    asked: str, client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await client.get(f"/v1/models/{asked}")).json()["id"] == "scripted"
    reply = await client.post("/v1/messages", json=body | {"model": asked})
    assert (reply.status_code, reply.json()["model"]) == (200, "scripted")


@pytest.mark.parametrize(
    "asked", ["nope", "claude-sonnet-5", "Scripted", "scripted ", "a/b", "日本"]
)
async def test_an_unknown_model_is_a_404_that_names_it(
    asked: str, client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    asking = body | {"model": asked}
    counting = {"model": asked, "messages": body["messages"]}
    for reply in (
        await client.post("/v1/messages", json=asking),
        await client.post("/v1/messages", json=asking | {"stream": True}),
        await client.post("/v1/messages/count_tokens", json=counting),
        await client.get(httpx.URL("http://senryu.test", path=f"/v1/models/{asked}")),
    ):
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert error == {"type": "not_found_error", "message": f"model: {asked}"}


@pytest.mark.parametrize("path", ["/v1/models/org/model", "/v1/models/org%2Fmodel"])
async def test_an_id_with_a_slash_is_found_however_it_is_written(
    path: str, client_for: ClientFor
) -> None:
    client = client_for(ScriptedEngine(model="org/model"))
    reply = await client.get(path)
    assert (reply.status_code, reply.json()["id"]) == (200, "org/model")
    assert reply.json()["display_name"] == "model"


async def test_the_operator_chooses_the_aliases(
    client_for: ClientFor, body: dict[str, Any]
) -> None:
    client = client_for(aliases=("gpt-*", "best"))
    for asked, status in (("gpt-4", 200), ("best", 200), ("bests", 404), ("claude-haiku", 404)):
        reply = await client.post("/v1/messages", json=body | {"model": asked})
        assert reply.status_code == status
