"""Whole conversations as text: what was asked, the tokens the engine said, the stream they made.

Each folder of `streams/` is a story: `request.json`, `tokens.txt` (one JSON string a line) and
`expected.sse`, byte for byte but for the message's id.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from senryu.server.engine.scripted import ScriptedEngine

STORIES = sorted(path.parent for path in Path(__file__).parent.glob("streams/*/request.json"))


def tokens(story: Path) -> list[str]:
    return [json.loads(line) for line in (story / "tokens.txt").read_text().splitlines()]


def without_ids(stream: str) -> str:
    return re.sub(r'"msg_01\w{22}"', '"msg_ID"', stream)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_story_is_told_as_it_is_written(
    story: Path, client_for: Callable[..., httpx.AsyncClient]
) -> None:
    client = client_for(ScriptedEngine(tokens(story)))
    reply = await client.post("/v1/messages", content=(story / "request.json").read_bytes())
    assert reply.status_code == 200
    assert without_ids(reply.text) == (story / "expected.sse").read_text()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_story_told_at_once_is_the_same_story(
    story: Path, client_for: Callable[..., httpx.AsyncClient]
) -> None:
    """Content, stop reason and usage of the whole message are those that the stream adds up to."""
    client = client_for(ScriptedEngine(tokens(story)))
    asked = json.loads((story / "request.json").read_text())
    whole = (await client.post("/v1/messages", json=asked | {"stream": False})).json()
    told = [
        json.loads(line.removeprefix("data: "))
        for line in (story / "expected.sse").read_text().split("\n")
        if line.startswith("data: ")
    ]
    text = "".join(
        event["delta"]["text"] for event in told if event["type"] == "content_block_delta"
    )
    (last,) = [event for event in told if event["type"] == "message_delta"]
    assert "".join(block["text"] for block in whole["content"]) == text
    assert {name: whole[name] for name in last["delta"]} == last["delta"]
    assert whole["usage"] == last["usage"]


def test_there_are_stories() -> None:
    assert len(STORIES) >= 5
