"""What clients are told of the prompt cache: contract 5, through the whole server.

The scripted engine remembers whole blocks as vLLM does; that vLLM does so is tested in
`tests/journeys`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineError, PromptRefused, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn import turn
from senryu.server.turn.prompt import Prompt
from senryu.server.warm_up import MOST, Beginnings

Body = dict[str, Any]
Ask = Callable[..., Any]
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
LONG = "The quick brown fox jumps over the lazy dog. " * 20
TOOL = {"name": "ls", "description": "Lists files. " * 10, "input_schema": {"type": "object"}}


def text(words: str, mark: Any = None) -> Body:
    return {"type": "text", "text": words} | ({"cache_control": mark} if mark else {})


@pytest.fixture
def usage(client: httpx.AsyncClient, body: Body) -> Ask:
    """The usage of a request that differs from `body` in what is given."""

    async def asked(**changed: Any) -> Body:
        reply = await client.post("/v1/messages", json=body | changed)
        assert reply.status_code == 200, reply.text
        told: Body = reply.json()["usage"]
        uncounted = ("diagnostics", "temperature", "metadata")
        counted = {key: value for key, value in (body | changed).items() if key not in uncounted}
        count = await client.post("/v1/messages/count_tokens", json=counted)
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        assert sum(told[part] for part in parts) == count.json()["input_tokens"]
        return told

    return asked


def counts(usage: Body) -> tuple[int, int, int]:
    created = usage["cache_creation"]
    assert usage["cache_creation_input_tokens"] == sum(created.values())
    return (
        usage["cache_read_input_tokens"],
        created["ephemeral_1h_input_tokens"],
        created["ephemeral_5m_input_tokens"],
    )


async def test_without_a_mark_nothing_is_counted_as_cached(usage: Ask) -> None:
    for _ in range(2):
        assert counts(await usage(system=LONG)) == (0, 0, 0)


async def test_what_was_written_is_read_the_next_time(usage: Ask) -> None:
    asked = {"system": [text(LONG, MARK)]}
    read, hour, minutes = counts(await usage(**asked))
    assert (read, hour) == (0, 0)
    assert minutes > 800
    assert minutes % 32 == 0
    assert counts(await usage(**asked)) == (minutes, 0, 0)


async def test_a_conversation_that_grows_writes_only_what_is_new(usage: Ask) -> None:
    messages: list[Body] = [{"role": "user", "content": LONG}]
    first = counts(await usage(messages=messages, cache_control=MARK))
    messages += [
        {"role": "assistant", "content": "Indeed."},
        {"role": "user", "content": "And then? " * 20},
    ]
    read, _, written = counts(await usage(messages=messages, cache_control=MARK))
    assert 0 <= read - first[2] <= 32, "up to a block more than was marked"
    assert 160 <= written <= 352


async def test_lifetimes_are_told_apart(usage: Ask) -> None:
    asked = {
        "tools": [TOOL | {"cache_control": HOUR}],
        "system": [text(LONG, HOUR)],
        "messages": [{"role": "user", "content": [text(LONG, MARK)]}],
    }
    read, hour, minutes = counts(await usage(**asked))
    assert read == 0
    assert hour > 900
    assert minutes > 800
    assert counts(await usage(**asked)) == (hour + minutes, 0, 0)
    other = asked | {"messages": [{"role": "user", "content": [text("No. " + LONG, MARK)]}]}
    read, longer, _ = counts(await usage(**other))
    assert read >= hour
    assert longer == 0


async def test_a_string_and_a_block_a_mark_and_none_are_the_same_prompt(usage: Ask) -> None:
    await usage(system=LONG, messages=[{"role": "user", "content": "hi"}])
    blocks = [{"role": "user", "content": [text("hi", MARK)]}]
    read, _, written = counts(await usage(system=[text(LONG)], messages=blocks))
    assert read > 800
    assert written <= 32


async def test_a_changing_billing_line_changes_nothing(usage: Ask) -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.330.{0}; cc_entrypoint=cli; cch={0};"
    parts = [text("You are a poet. "), text(LONG, MARK)]
    first = counts(await usage(system=[text(line.format("a1")), *parts]))
    assert counts(await usage(system=[text(line.format("b2")), *parts])) == (first[2], 0, 0)
    in_one = f"{line.format('c3')}\nYou are a poet. {LONG}"
    read, _, _ = counts(await usage(system=in_one, cache_control=MARK))
    assert read >= first[2]


async def test_a_system_message_that_is_a_block_and_then_a_string_is_the_same(usage: Ask) -> None:
    question = {"role": "user", "content": LONG}
    last = {"role": "system", "content": [text("Reminder: be brief.", MARK)]}
    _, _, written = counts(await usage(messages=[question, last]))
    later = {"role": "system", "content": "Reminder: be brief."}
    more = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}]
    read, _, _ = counts(await usage(messages=[question, later, *more], cache_control=MARK))
    assert read >= written


async def test_what_must_not_change_a_prompt_does_not(usage: Ask) -> None:
    asked = {"tools": [TOOL], "system": [text(LONG, MARK)]}
    _, _, written = counts(await usage(**asked))
    for changed in (
        {"tool_choice": {"type": "none"}},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"max_tokens": 1},
        {"temperature": 0.5},
        {"metadata": {"user_id": "u"}},
        {"thinking": {"type": "disabled"}},
    ):
        assert counts(await usage(**asked, **changed)) == (written, 0, 0), changed


async def test_pre_warming_writes_and_says_nothing(client: httpx.AsyncClient, body: Body) -> None:
    asked = body | {"max_tokens": 0, "system": [text(LONG, MARK)]}
    message = (await client.post("/v1/messages", json=asked)).json()
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")
    assert message["usage"]["output_tokens"] == 0
    written = message["usage"]["cache_creation_input_tokens"]
    assert written > 800
    reply = await client.post("/v1/messages", json=asked | {"max_tokens": 5})
    assert reply.json()["usage"]["cache_read_input_tokens"] == written


async def test_a_stream_tells_the_same_at_its_start_and_at_its_end(
    client: httpx.AsyncClient, body: Body
) -> None:
    asked = body | {"stream": True, "system": [text(LONG, MARK)]}
    for _ in range(2):
        reply = await client.post("/v1/messages", json=asked)
        told = [
            json.loads(line.removeprefix("data: "))
            for line in reply.text.splitlines()
            if line.startswith("data: ")
        ]
        start = told[0]["message"]["usage"]
        (delta,) = (event for event in told if event["type"] == "message_delta")
        for key in ("input_tokens", "cache_read_input_tokens", "cache_creation"):
            assert start[key] == delta["usage"][key]
    assert start["cache_read_input_tokens"] > 800


async def test_keys_share_nothing_and_a_group_shares_all(
    client_for: Callable[..., httpx.AsyncClient], body: Body
) -> None:
    client = client_for(api_keys=("ann=k1", "bob=k2", "cy@team=k3", "di@team=k4"), api_key="k0")
    asked = body | {"system": [text(LONG, MARK)]}

    async def read(key: str) -> int:
        reply = await client.post("/v1/messages", json=asked, headers={"x-api-key": key})
        found: int = reply.json()["usage"]["cache_read_input_tokens"]
        return found

    assert [await read(key) for key in ("k0", "k1", "k2", "k3")] == [0, 0, 0, 0]
    assert await read("k4") == await read("k1") > 800


async def test_nobody_can_ask_under_a_salt_of_his_choice(
    client: httpx.AsyncClient, body: Body
) -> None:
    for name in ("cache_salt", "kv_transfer_params", "vllm_xargs"):
        reply = await client.post("/v1/messages", json=body | {name: "x"})
        assert reply.status_code == 400
        assert "Extra inputs are not permitted" in reply.json()["error"]["message"]


async def test_a_minimum_is_obeyed(
    client_for: Callable[..., httpx.AsyncClient], body: Body
) -> None:
    asked = body | {"system": [text(LONG, MARK)]}
    for minimum, counted in ((2048, False), (512, True)):
        client = client_for(cache_minimum=minimum)
        for _ in range(2):
            usage = (await client.post("/v1/messages", json=asked)).json()["usage"]
            assert any(counts(usage)) is counted


async def test_nobody_learns_what_changed_since_a_message_of_others(
    client_for: Callable[..., httpx.AsyncClient], body: Body
) -> None:
    client = client_for(api_keys=("ann=k1", "bob=k2"))

    async def why(key: str, previous: str | None) -> Any:
        asked = body | {"diagnostics": {"previous_message_id": previous}}
        reply = (await client.post("/v1/messages", json=asked, headers={"x-api-key": key})).json()
        return reply["id"], reply["diagnostics"]

    first, _ = await why("k1", None)
    assert (await why("k1", first))[1] is None
    assert (await why("k2", first))[1] == {
        "cache_miss_reason": {"type": "previous_message_not_found"}
    }


class Late(ScriptedEngine):
    """Tells nothing for a while, or fails at once."""

    def __init__(self, *, seconds: float = 0.0, error: EngineError | None = None) -> None:
        super().__init__()
        self._seconds = seconds
        self._error = error

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        await asyncio.sleep(self._seconds)
        if self._error:
            raise self._error
        async for event in super().generate(prompt, sampling, request_id):
            yield event


async def test_an_engine_that_is_late_delays_the_start_a_while_and_no_ping_comes_before_it(
    client_for: Callable[..., httpx.AsyncClient], body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "PATIENCE", 0.1)
    client = client_for(Late(seconds=0.5), ping_seconds=0.05)
    reply = await client.post(
        "/v1/messages", json=body | {"stream": True, "system": [text(LONG, MARK)]}
    )
    told = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in told[:2]] == ["message_start", "ping"]
    start = told[0]["message"]["usage"]
    (end,) = (event["usage"] for event in told if event["type"] == "message_delta")
    assert counts(start) == (0, 0, 0)
    assert end["cache_creation_input_tokens"] > 800
    assert start["input_tokens"] == end["input_tokens"] + end["cache_creation_input_tokens"]


@pytest.mark.parametrize(
    ("error", "status"), [(EngineError("gone"), 500), (PromptRefused("too odd"), 400)]
)
async def test_an_engine_that_fails_before_anything_was_sent_is_an_error_like_any_other(
    client_for: Callable[..., httpx.AsyncClient], body: Body, error: EngineError, status: int
) -> None:
    asked = body | {"stream": True, "system": [text(LONG, MARK)]}
    reply = await client_for(Late(error=error)).post("/v1/messages", json=asked)
    assert reply.status_code == status
    assert str(error) in reply.json()["error"]["message"]


async def test_a_thousand_prefixes_leave_no_more_behind_than_they_may(
    client_for: Callable[..., httpx.AsyncClient], body: Body, tmp_path: Path
) -> None:
    """Each asks why, is noted for the next start, and is never seen again."""
    beginnings = Beginnings(tmp_path, "m")
    client = client_for(beginnings=beginnings)
    for number in range(1000):
        system = [text(f"Prefix {number}. {LONG[:300]}", MARK)]
        asked = body | {"system": system, "diagnostics": {"previous_message_id": None}}
        reply = await client.post("/v1/messages", json=asked)
        assert reply.status_code == 200
        assert reply.json()["usage"]["cache_read_input_tokens"] < 64
    for _ in range(100):  # notes are taken when nobody waits for them
        if noted(beginnings) <= MOST:
            break
        await asyncio.sleep(0.05)
    assert 0 < noted(beginnings) <= MOST


def noted(beginnings: Beginnings) -> int:
    return len(list(beginnings.folder.iterdir()))
