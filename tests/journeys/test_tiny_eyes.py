"""Images on the real engine: they reach the model, and cost what was counted.

The model has random weights: what it says means nothing, but says whether it saw the same.
"""

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tiny_eyes import make_tiny_eyes

from senryu.server.app import build_app
from senryu.server.conversation.messages import (
    Conversation,
    ImageBlock,
    Message,
    Sampling,
    TextBlock,
)
from senryu.server.engine import open_engine
from senryu.server.engine.base import Engine
from senryu.server.engine.model_folder import EMBEDDED, find_model
from senryu.server.settings import ServerSettings
from senryu.server.turn.prompt import build_prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    # What vLLM imports for a model that sees warns of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

Body = dict[str, Any]
Ask = Callable[[str, Body], httpx.Response]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    folder = make_tiny_eyes(tmp_path_factory.mktemp("eyes"), find_model(EMBEDDED))
    engine = loop.run(open_engine(ServerSettings(model=str(folder), kv_memory_gib=0.5)))
    yield engine
    loop.run(engine.close())


@pytest.fixture(scope="module")
def ask(loop: asyncio.Runner, engine: Engine) -> Iterator[Ask]:
    """Asks a server of this engine: `ask("/v1/messages", body)`."""
    app = build_app(ServerSettings(signing_key="the tests' own"), engine)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://senryu.test")
    yield lambda path, body: loop.run(client.post(path, json=body, timeout=60))
    loop.run(client.aclose())


def drawn(colour: str, size: tuple[int, int] = (120, 80), kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def image(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def asked(*content: Any) -> Body:
    messages = [{"role": "user", "content": [*content]}]
    return {"model": "claude-haiku-4-5", "messages": messages, "max_tokens": 8}


WHAT = {"type": "text", "text": "What is this?"}
IN_A_TURN = asked(image(drawn("red")), WHAT, image(drawn("blue", (400, 30), "JPEG"), "image/jpeg"))
IN_A_RESULT = asked(WHAT)
IN_A_RESULT["tools"] = [{"name": "look", "input_schema": {"type": "object"}}]
IN_A_RESULT["messages"] += [
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image(drawn("green"))]}
        ],
    },
]


def test_the_engine_says_that_it_sees(engine: Engine) -> None:
    assert engine.card.sees
    (choice,) = (choice for choice in engine.card.choices if choice.name == "images")
    assert choice.value == "yes"


@pytest.mark.parametrize("body", [IN_A_TURN, IN_A_RESULT], ids=["turn", "result"])
def test_an_image_costs_what_was_counted_plain_and_streamed(ask: Ask, body: Body) -> None:
    """Counted before and between: what was only counted never went to the engine."""
    counts, answers = [], []
    for stream in (False, True):
        counts.append(ask("/v1/messages/count_tokens", body).json()["input_tokens"])
        reply = ask("/v1/messages", body | {"stream": stream, "temperature": 0})
        text, usage = streamed(reply) if stream else whole(reply)
        answers.append(text)
        counts.append(sum(tokens for name, tokens in usage.items() if name in INPUTS))
        assert usage["output_tokens"] > 0
    assert len(set(counts)) == 1
    assert answers[0] == answers[1]
    without = ask("/v1/messages/count_tokens", asked(WHAT)).json()["input_tokens"]
    assert counts[0] > without + 16, "an image is many tokens"


INPUTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def whole(reply: httpx.Response) -> tuple[str, Body]:
    message = reply.json()
    return "".join(block["text"] for block in message["content"]), message["usage"]


def streamed(reply: httpx.Response) -> tuple[str, Body]:
    lines = [line for line in reply.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    (ended,) = [event for event in events if event["type"] == "message_delta"]
    return "".join(delta["text"] for delta in deltas), ended["usage"]


def told(loop: asyncio.Runner, engine: Engine, colour: str, words: str) -> tuple[list[int], int]:
    """What the engine answers, and how much of the prompt it knew."""
    block = ImageBlock(media_type="image/png", data=drawn(colour))
    turn = Message(role="user", content=(block, TextBlock(text=words)))
    prompt = build_prompt(Conversation(messages=(turn,)), engine.tokenizer, engine.card.dialect)

    async def answered() -> tuple[list[int], int]:
        seen = await asyncio.to_thread(engine.look, prompt)
        sampling = Sampling(max_tokens=8, temperature=0)
        events = [event async for event in engine.generate(seen, sampling, f"msg_{words}")]
        cached = max(event.cached_tokens for event in events)
        return [token for event in events for token in event.token_ids], cached

    return loop.run(answered())


def test_an_image_that_was_seen_is_known_again_and_another_is_not(
    loop: asyncio.Runner, engine: Engine
) -> None:
    words = "Tell me more of this. " * 20
    first, unknown = told(loop, engine, "orange", words)
    again, known = told(loop, engine, "orange", words)
    _, other = told(loop, engine, "purple", words)
    assert again == first
    assert known > 100
    assert other == unknown < 32, "nothing behind another image was known"


def test_what_is_no_image_is_the_clients_mistake(ask: Ask) -> None:
    for content, words in (
        ([image(drawn("red")[:-30])], "Could not process image"),
        ([image(b"no image")], "Could not process image"),
        ([image(drawn("red", (400, 400)))] * 90, r"prompt is too long: \d+ tokens > 4096"),
    ):
        reply = ask("/v1/messages", asked(*content))
        assert reply.status_code == 400
        assert re.search(words, reply.json()["error"]["message"])
