"""Whole conversations as text: what was asked, the tokens the engine said, the stream they made.

Each folder of `streams/` is a story: `request.json`, `tokens.txt` (one JSON string a line) and
`expected.sse`, byte for byte but for what is random: ids, and the seals of thoughts.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic_core import from_json

from senryu.server.engine.scripted import ScriptedEngine

STORIES = sorted(path.parent for path in Path(__file__).parent.glob("streams/*/request.json"))


def tokens(story: Path) -> list[str]:
    return [json.loads(line) for line in (story / "tokens.txt").read_text().splitlines()]


def without_random(stream: str) -> str:
    stream = re.sub(r'"(msg|toolu)_01\w{22}"', r'"\1_ID"', stream)
    return re.sub(r'"signature":"[^"]+"', '"signature":"SEAL"', stream)


def added_up(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that the events of a stream tell."""
    blocks: list[dict[str, Any]] = []
    for event in told:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            ((_, kind), (name, text)) = event["delta"].items()
            if kind == "input_json_delta":
                name = "written"
            blocks[-1][name] = blocks[-1].get(name, "") + text
    for block in blocks:
        if "written" in block:
            block["input"] = from_json(block.pop("written"), allow_partial=True)
    return blocks


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_story_is_told_as_it_is_written(
    story: Path, client_for: Callable[..., httpx.AsyncClient]
) -> None:
    client = client_for(ScriptedEngine(tokens(story)))
    reply = await client.post("/v1/messages", content=(story / "request.json").read_bytes())
    assert reply.status_code == 200
    assert without_random(reply.text) == (story / "expected.sse").read_text()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_story_told_at_once_is_the_same_story(
    story: Path, client_for: Callable[..., httpx.AsyncClient]
) -> None:
    """Content, stop reason and usage of the whole message are those that the stream adds up to."""
    client = client_for(ScriptedEngine(tokens(story)))
    asked = json.loads((story / "request.json").read_text())
    reply = await client.post("/v1/messages", json=asked | {"stream": False})
    whole = json.loads(without_random(reply.text))
    told = [
        json.loads(line.removeprefix("data: "))
        for line in (story / "expected.sse").read_text().split("\n")
        if line.startswith("data: ")
    ]
    (last,) = [event for event in told if event["type"] == "message_delta"]
    assert whole["content"] == added_up(told)
    assert {name: whole[name] for name in last["delta"]} == last["delta"]
    assert whole["usage"] == last["usage"]


def test_there_are_stories() -> None:
    assert len(STORIES) >= 10
