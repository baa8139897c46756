"""Images through the whole server, to an engine that sees: what they cost is what was counted."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from senryu.server.engine.base import EngineError, PromptRefused
from senryu.server.engine.scripted import IMAGE_TOKENS, ScriptedEngine
from senryu.server.turn.prompt import Prompt

pictures = pytest.importorskip("PIL.Image", reason="Pillow comes with the engine")

Body = dict[str, Any]
ClientFor = Callable[..., httpx.AsyncClient]
ASKED = {"type": "text", "text": "What is this?"}
COUNT = "/v1/messages/count_tokens"


def image(width: int = 8, height: int = 8) -> Body:
    file = io.BytesIO()
    pictures.new("RGB", (width, height), "red").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def asked(body: Body, *content: Body) -> Body:
    return body | {"messages": [{"role": "user", "content": [*content]}]}


def found(body: Body, *content: Body) -> Body:
    """A tool's result with this content."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [*content]}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    return body | {"messages": turns, "tools": tools}


async def counted(client: httpx.AsyncClient, body: Body) -> int:
    tokens: int = (await client.post(COUNT, json=body)).json()["input_tokens"]
    return tokens


@pytest.mark.parametrize("place", [asked, found])
async def test_what_an_image_costs_is_counted_and_used_streamed_or_not(
    client_for: ClientFor, body: Body, place: Callable[..., Body]
) -> None:
    client = client_for(ScriptedEngine(sees=True))
    without = await counted(client, place(body, ASKED))
    for images in (1, 3):
        wanted = place(body, *[image()] * images, ASKED)
        assert await counted(client, wanted) == without + images * IMAGE_TOKENS
        usage = (await client.post("/v1/messages", json=wanted)).json()["usage"]
        assert usage["input_tokens"] == without + images * IMAGE_TOKENS
        reply = await client.post("/v1/messages", json=wanted | {"stream": True})
        first = next(line for line in reply.text.splitlines() if line.startswith("data: "))
        started = json.loads(first.removeprefix("data: "))["message"]
        assert started["usage"]["input_tokens"] == usage["input_tokens"]


async def test_a_prompt_is_too_long_with_its_images(client_for: ClientFor, body: Body) -> None:
    client = client_for(ScriptedEngine(sees=True, window=200))
    wanted = asked(body, *[image()] * 4)
    tokens = await counted(client, wanted)
    reply = await client.post("/v1/messages", json=wanted)
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert message == f"prompt is too long: {tokens} tokens > 200 maximum"


async def test_an_image_that_is_edited_out_costs_nothing(client_for: ClientFor, body: Body) -> None:
    client = client_for(ScriptedEngine(sees=True))
    clear = {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "tool_uses", "value": 1},
        "keep": {"type": "tool_uses", "value": 0},
    }
    wanted = found(body, *[image()] * 3)
    wanted["messages"] += [{"role": "assistant", "content": "Red."}, *wanted["messages"][:1]]
    wanted["messages"] += [
        json.loads(json.dumps(turn).replace("toolu_1", "toolu_2"))
        for turn in wanted["messages"][1:3]
    ]
    edited = wanted | {"context_management": {"edits": [clear]}}
    headers = {"anthropic-beta": "context-management-2025-06-27"}
    reply = await client.post("/v1/messages", json=edited, headers=headers)
    (applied,) = reply.json()["context_management"]["applied_edits"]
    whole, left = await counted(client, wanted), reply.json()["usage"]["input_tokens"]
    assert applied["cleared_input_tokens"] == whole - left > 5 * IMAGE_TOKENS


@pytest.mark.parametrize(
    ("error", "status"), [(PromptRefused("not this one"), 400), (EngineError("not now"), 500)]
)
@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
async def test_an_image_that_the_engine_cannot_read_is_told(
    client_for: ClientFor, body: Body, path: str, error: Exception, status: int
) -> None:
    class Blinded(ScriptedEngine):
        def look(self, prompt: Prompt) -> Prompt:
            raise error

    client = client_for(Blinded(sees=True))
    reply = await client.post(path, json=asked(body, image()))
    assert (reply.status_code, reply.json()["error"]["message"]) == (status, str(error))
    assert (await client.post(path, json=asked(body, ASKED))).status_code == 200


async def test_a_picture_has_its_limits_on_the_way(client_for: ClientFor, body: Body) -> None:
    client = client_for(ScriptedEngine(sees=True))
    long, longer = image(2000, 1), image(2001, 1)
    error = {"transformations": {"oversized_image": "error"}}
    cut = image()
    cut["source"]["data"] = cut["source"]["data"][:-40]
    for content, words in (
        ([long] * 21, None),
        ([longer] * 20, None),
        ([longer] * 21, "for many-image requests: 2000 pixels"),
        ([image(8001, 1)], "max allowed size: 8000 pixels"),
        ([long | error], "a side of 2000 pixels"),
        ([cut], "Could not process image"),
    ):
        reply = await client.post(COUNT, json=asked(body, *content))
        assert reply.status_code == (200 if words is None else 400)
        assert words is None or words in reply.json()["error"]["message"]


async def test_that_it_sees_is_among_the_models_capabilities(client_for: ClientFor) -> None:
    for sees in (True, False):
        client = client_for(ScriptedEngine(sees=sees))
        model = (await client.get("/v1/models/scripted")).json()
        assert model["capabilities"]["image_input"] == {"supported": sees}
