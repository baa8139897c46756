"""Clients that think they talk to Vertex AI get the answers of the Messages API (contract 8)."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from anthropic import AnthropicVertex

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]

MODELS = "/projects/p/locations/l/publishers/anthropic/models"
HAIKU = "claude-haiku-x@20250514"


@pytest.fixture
def wrapped(body: Body) -> Body:
    """The smallest good request, as Vertex has it."""
    return {name: value for name, value in body.items() if name != "model"} | {
        "anthropic_version": "vertex-2023-10-16"
    }


def said(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["message"]


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("model", [HAIKU, "scripted"])
async def test_the_model_stands_in_the_path(
    prefix: str, model: str, client: httpx.AsyncClient, wrapped: Body
) -> None:
    reply = await client.post(f"{prefix}{MODELS}/{model}:rawPredict", json=wrapped)
    assert reply.status_code == 200
    assert (reply.json()["model"], reply.json()["type"]) == ("scripted", "message")


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_stream_is_plain_server_sent_events(
    prefix: str, client: httpx.AsyncClient, wrapped: Body
) -> None:
    for asked in (wrapped, wrapped | {"stream": True}):
        reply = await client.post(f"{prefix}{MODELS}/{HAIKU}:streamRawPredict", json=asked)
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.text.startswith("event: message_start\n")
        assert reply.text.endswith('data: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_count_names_its_model_in_the_body(
    prefix: str, client: httpx.AsyncClient, wrapped: Body, body: Body
) -> None:
    path = f"{prefix}{MODELS}/count-tokens:rawPredict"
    reply = await client.post(path, json=wrapped | {"model": HAIKU})
    assert reply.json() == (await client.post("/v1/messages/count_tokens", json=body)).json()
    assert said(await client.post(path, json=wrapped)) == (400, "model: Field required")


@pytest.mark.parametrize(
    ("version", "status"),
    [("2026-10-21", 400), ("vertex-2023-10-16", 200), ("2023-06-01", 200), (None, 200)],
)
async def test_the_version_in_the_body_holds(
    version: str | None, status: int, client: httpx.AsyncClient, wrapped: Body
) -> None:
    """Only the current version refuses to be told a temperature."""
    asked = wrapped | {"anthropic_version": version, "temperature": 0.5}
    reply = await client.post(f"{MODELS}/{HAIKU}:rawPredict", json=asked)
    assert reply.status_code == status


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"anthropic_version": "never"}, "anthropic-version: 'never' is not a valid version"),
        ({"anthropic_version": 3}, "anthropic_version: Input should be a valid string"),
        ({"anthropic_beta": "x"}, "anthropic_beta: Input should be a valid list of strings"),
        ({"anthropic_beta": [1]}, "anthropic_beta: Input should be a valid list of strings"),
        ({"max_tokens": None}, "max_tokens: "),
        ({"other": 1}, "other: Extra inputs are not permitted"),
    ],
)
async def test_what_is_wrong_is_a_400_that_names_it(
    changed: Body, message: str, client: httpx.AsyncClient, wrapped: Body
) -> None:
    reply = await client.post(f"{MODELS}/{HAIKU}:rawPredict", json=wrapped | changed)
    status, text = said(reply)
    assert status == 400
    assert text.startswith(message)


async def test_an_unknown_model_is_a_404_that_names_it(
    client: httpx.AsyncClient, wrapped: Body
) -> None:
    for model in ("claude-sonnet-x@1", "a/b"):
        reply = await client.post(f"{MODELS}/{model}:rawPredict", json=wrapped)
        assert said(reply) == (404, f"model: {model}")


async def test_a_strict_server_reads_version_and_betas_from_the_body(
    client_for: ClientFor, wrapped: Body
) -> None:
    client, path = client_for(strict=True), f"{MODELS}/{HAIKU}:rawPredict"
    known = wrapped | {"anthropic_beta": ["token-counting-2024-11-01"]}
    assert (await client.post(path, json=known)).status_code == 200
    unknown = wrapped | {"anthropic_beta": ["x-1"]}
    assert said(await client.post(path, json=unknown))[1].startswith("Unexpected value(s) `x-1`")
    silent = wrapped | {"anthropic_version": None}
    assert said(await client.post(path, json=silent))[1] == "anthropic-version: header is required"


async def test_the_token_of_the_cloud_is_our_key(client_for: ClientFor, wrapped: Body) -> None:
    client, path = client_for(api_key="k"), f"{MODELS}/{HAIKU}:rawPredict"
    assert (await client.post(path, json=wrapped)).status_code == 401
    headers = {"authorization": "Bearer k"}
    assert (await client.post(path, json=wrapped, headers=headers)).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": "\\ud800"}'])
@pytest.mark.parametrize("call", [f"{HAIKU}:rawPredict", "count-tokens:rawPredict"])
async def test_a_body_that_is_no_json_object_is_a_400(
    call: str, content: bytes, client: httpx.AsyncClient
) -> None:
    status, message = said(await client.post(f"{MODELS}/{call}", content=content))
    assert status == 400
    assert message.startswith("The request body is not valid JSON: ")


@pytest.mark.parametrize("call", ["predict", f"{HAIKU}:predict", HAIKU, "count-tokens"])
async def test_other_calls_are_not_known(call: str, client: httpx.AsyncClient) -> None:
    assert (await client.post(f"{MODELS}/{call}", json={})).status_code == 404


async def test_an_integer_of_any_length_stays_as_it_is(
    client: httpx.AsyncClient, wrapped: Body
) -> None:
    def saying(number: int) -> Body:
        call = {"type": "tool_use", "id": "a", "name": "ls", "input": {"n": number}}
        result = {"type": "tool_result", "tool_use_id": "a"}
        turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        return {"messages": [*wrapped["messages"], *turns], "model": "scripted"}

    for number in (10**40 + 1, 10**40 + 2**33):
        path = f"{MODELS}/count-tokens:rawPredict"
        assert (
            (await client.post(path, json=saying(number))).json()
            == (await client.post("/v1/messages/count_tokens", json=saying(number))).json()
            != (await client.post(path, json=saying(10**20))).json()
        )


def test_the_official_client_is_answered(server: Any) -> None:
    client = AnthropicVertex(
        base_url=f"{server.url}/v1", region="l", project_id="p", access_token="t"
    )
    with client:
        asked: Body = {
            "model": HAIKU,
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "hi"}],
        }
        assert client.messages.create(**asked).model == "scripted"
        with client.messages.stream(**asked) as stream:
            assert stream.get_final_text()
        counted = client.messages.count_tokens(model=HAIKU, messages=asked["messages"])
        assert counted.input_tokens > 0
        assert json.loads(counted.to_json()).keys() == {"input_tokens"}
