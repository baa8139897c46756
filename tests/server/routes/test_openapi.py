"""The API describes itself: what it would read is what its description allows."""

import json
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

CLAUDE_CODE = Path(__file__).parents[1] / "claude_code" / "base.json"


async def bodies(client: httpx.AsyncClient) -> Draft202012Validator:
    """A judge of message bodies, made of the description alone."""
    api = (await client.get("/openapi.json")).json()
    content = api["paths"]["/v1/messages"]["post"]["requestBody"]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return Draft202012Validator(schema | {"components": api["components"]})


async def test_every_route_is_described(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths["/v1/messages"]) == {"post"}
    assert set(paths["/v1/messages/count_tokens"]) == {"post"}
    names = [parameter["name"] for parameter in paths["/v1/models"]["get"]["parameters"]]
    assert names == ["limit", "after_id", "before_id", "lifecycle[]"]
    assert set(paths["/v1/messages/batches"]) == {"get", "post"}
    assert set(paths["/v1/messages/batches/{batch_id}"]) == {"get", "delete"}
    assert "requestBody" not in paths["/v1/messages/batches"]["get"]
    assert set(paths["/v1/files"]) == {"get", "post"}
    assert set(paths["/v1/files"]["post"]["requestBody"]["content"]) == {"multipart/form-data"}
    assert set(paths["/v1/files/{file_id}"]) == {"get", "delete"}
    assert "422" not in json.dumps(paths), "nobody is sent FastAPI's own errors"


async def test_what_is_described_is_what_is_read(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    judge = await bodies(client)
    for good in (body, json.loads(CLAUDE_CODE.read_text())["body"]):
        assert not list(judge.iter_errors(good))
    for bad in ({"max_tokens": "10"}, {"messages": [{"role": "tool", "content": "hi"}]}, {"x": 1}):
        assert list(judge.iter_errors(body | bad))
        assert (await client.post("/v1/messages", json=body | bad)).status_code == 400


async def test_the_description_is_behind_the_key_like_all_else(client_for: Any) -> None:
    assert (await client_for(api_key="right").get("/openapi.json")).status_code == 401
