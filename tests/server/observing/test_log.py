"""A line for each request says how it went and never what was said."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.observing import log
from senryu.server.observing.watch import Exchange
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.account import Ended
from senryu.server.tenancy.store.opening import open_store
from senryu.server.turn.prompt import Prompt

ClientFor = Callable[..., httpx.AsyncClient]
PROMPT = "the prompt: Zanzibar"
KEY = "sk-marmalade"
ANSWER = "an answer of hippopotami"


class Log:
    """What the log shows."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def logging_as() -> Iterator[Callable[..., Log]]:
    """Configures the process's log: `logging_as(log_format="json")`."""
    loggers = [logging.getLogger(name) for name in ("", "senryu")]
    before = [each.level for each in loggers]
    handlers = []

    def logging_as(**changed: Any) -> Log:
        shown = Log()
        handlers.append(log.configure(ServerSettings(**changed), shown.stream))
        return shown

    yield logging_as
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


# --- one line ----------------------------------------------------------------------------------


def test_a_line_has_the_request_its_tokens_and_its_times(
    exchange: Callable[..., Exchange],
    answer: Callable[..., Ended],
    logging_as: Callable[..., Log],
) -> None:
    shown = logging_as(log_format="json")
    log.request(exchange(), answer())
    [line] = shown.lines
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "senryu.requests",
        "method": "POST",
        "path": "/v1/messages",
        "status": 200,
        "seconds": 2.01,
        "request_id": "req_1",
        "key": "ann",
        "model": "tiny",
        "message_id": "msg_1",
        "task": "review",
        "stream": True,
        "state": "done",
        "stop_reason": "end_turn",
        "input_tokens": 30,
        "cache_read_tokens": 64,
        "cache_creation_tokens": 6,
        "output_tokens": 21,
        "thinking_tokens": 5,
        "queued_seconds": 0.1,
        "first_token_seconds": 1.0,
        "answer_seconds": 2.0,
        "usd": 0.0025,
    }


def test_for_people_it_is_a_line_too(
    exchange: Callable[..., Exchange],
    answer: Callable[..., Ended],
    logging_as: Callable[..., Log],
) -> None:
    shown = logging_as()
    log.request(exchange(), answer(cost=10))
    [line] = shown.text.splitlines()
    assert "POST /v1/messages 200 seconds=2.01 request_id=req_1 key=ann model=tiny " in line
    assert line.endswith("first_token_seconds=1 answer_seconds=2 usd=0.00000001")


def test_a_request_of_a_batch_has_its_line(
    answer: Callable[..., Ended], logging_as: Callable[..., Log]
) -> None:
    shown = logging_as()
    log.request(None, answer(tier="batch", batch_id="msgbatch_1", stream=False))
    assert " batch request_id=req_1 key=ann " in shown.text
    assert " batch_id=msgbatch_1 " in shown.text


def test_giving_way_is_no_line(
    answer: Callable[..., Ended], logging_as: Callable[..., Log]
) -> None:
    shown = logging_as()
    log.request(None, answer(tier="batch", state="failed", error_type="overloaded_error"))
    assert shown.text == ""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("odd", ["a b=c", 'x"', "x\nforged line", "\x1b[2J", "\u2028x", "", "ü"])
def test_no_value_can_pass_for_two_or_for_a_line_of_its_own(
    form: str, odd: str, answer: Callable[..., Ended], logging_as: Callable[..., Log]
) -> None:
    shown = logging_as(log_format=form)
    log.request(None, answer(task=odd))
    [line] = shown.text.splitlines()
    assert line.isprintable()
    if form == "text":
        value = line.partition(" task=")[2].partition(" stream=")[0]
        assert (json.loads(value) if value.startswith('"') else value) == odd
        assert value.startswith('"') == (odd != "ü")
    else:
        assert json.loads(line)["task"] == odd


def test_what_looks_in_every_few_seconds_is_a_line_only_when_something_is_wrong(
    exchange: Callable[..., Exchange], logging_as: Callable[..., Log]
) -> None:
    shown = logging_as(log_format="json")
    for route in ("/health", "/metrics"):
        log.request(exchange(route=route, path=route), None)
        log.request(exchange(route=route, path=route, status=500), None)
    assert [line["status"] for line in shown.lines] == [500, 500]


# --- whatever happens --------------------------------------------------------------------------


class Quoting(ScriptedEngine):
    """Fails with our own bug, whose text quotes what it was given."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        raise ValueError(f"cannot read {PROMPT!r} of {KEY}") from KeyError(PROMPT)
        yield  # a generator, as all are


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_line_has_text_of_prompts_or_answers_or_a_key(
    form: str, logging_as: Callable[..., Log], client_for: ClientFor, body: dict[str, Any]
) -> None:
    shown = logging_as(log_format=form)
    body = body | {"messages": [{"role": "user", "content": PROMPT}], "metadata": {"user_id": KEY}}
    good, headers = {"x-api-key": KEY}, {"anthropic-beta": f"{KEY}, other"}
    url = f"/v1/messages?key={KEY}"
    counted = {name: body[name] for name in ("model", "messages")}
    for engine in (ScriptedEngine(ANSWER), Quoting()):
        client = client_for(engine, api_key=KEY)
        for asked in (body, body | {"stream": True}, body | {"max_tokens": PROMPT}):
            await client.post(url, json=asked, headers=good | headers)
        await client.post(url, json=body, headers={"x-api-key": f"{KEY}-wrong"})
        await client.post(url, content=b"{" + PROMPT.encode(), headers=good)
        await client.post("/v1/messages/count_tokens", json=counted, headers=good)
        await client.get("/v1/messages", headers={"authorization": f"Bearer {KEY}"})
    assert shown.text.count("/v1/messages") >= 14
    assert "test_log.py" in shown.text, "where it was raised is shown"
    assert "builtins.ValueError" in shown.text
    for secret in ("Zanzibar", "marmalade", "hippopotami"):
        assert secret not in shown.text


async def test_what_a_task_failed_with_is_not_quoted_either(
    logging_as: Callable[..., Log],
) -> None:
    shown = logging_as()

    async def fails() -> None:
        raise ExceptionGroup(PROMPT, [ValueError(PROMPT)])

    task = asyncio.create_task(fails())
    await asyncio.wait({task})
    del task  # nobody asks for its result: asyncio says so
    assert "never retrieved" in shown.text
    assert "builtins.ExceptionGroup" in shown.text
    assert "  | builtins.ValueError" in shown.text
    assert "Zanzibar" not in shown.text


async def test_what_the_store_fails_on_is_not_quoted_either(tmp_path: Path) -> None:
    """Its errors are told of by what they say."""
    store = await open_store(str(tmp_path / "senryu.db"))
    try:
        async with store.engine.connect() as connection:
            with pytest.raises(SQLAlchemyError) as caught:
                await connection.execute(text("INSERT INTO nowhere VALUES (:it)"), {"it": PROMPT})
    finally:
        await store.close()
    assert "nowhere" in str(caught.value)
    assert "Zanzibar" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_said_is_shown_to_those_who_ask_for_it(
    stream: bool, logging_as: Callable[..., Log], client_for: ClientFor, body: dict[str, Any]
) -> None:
    shown = logging_as(log_format="json")
    client = client_for(ScriptedEngine([ANSWER]), log_prompts=True, api_key=KEY)
    body = body | {"messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    await client.post("/v1/messages", json=body, headers={"x-api-key": KEY})
    [line] = shown.lines
    assert "Zanzibar" in line["asked"]
    assert "hippopotami" in line["answered"]
    assert "marmalade" not in shown.text


async def test_every_request_has_one_line(
    logging_as: Callable[..., Log], client_for: ClientFor, body: dict[str, Any]
) -> None:
    shown = logging_as(log_format="json")
    client = client_for(api_key=KEY)
    good = {"x-api-key": KEY}
    replies = [
        await client.post("/v1/messages", json=body, headers=good),
        await client.post("/v1/messages", json=body | {"stream": True}, headers=good),
        await client.post("/v1/messages", json=body),
        await client.post("/v1/messages", json={}, headers=good),
        await client.put("/v1/messages", headers=good),
        await client.get("/nowhere", headers=good),
        await client.get("/v1/models/scripted", headers=good),
    ]
    assert [line["status"] for line in shown.lines] == [200, 200, 401, 400, 405, 404, 200]
    assert [line["request_id"] for line in shown.lines] == [
        reply.headers["request-id"] for reply in replies
    ]
    first, second, third, fourth, *_ = shown.lines
    assert first["output_tokens"] == second["output_tokens"] > 0
    assert (first["key"], first["state"], first["stop_reason"]) == ("api_key", "done", "end_turn")
    assert first.keys() - second.keys() == set()
    assert (third["error"], fourth["error"]) == ("authentication_error", "invalid_request_error")
    assert "key" not in third


async def test_a_stream_that_breaks_is_told_with_its_error(
    logging_as: Callable[..., Log],
    client_for: ClientFor,
    body: dict[str, Any],
    breaking_engine: Any,
) -> None:
    shown = logging_as(log_format="json")
    client = client_for(breaking_engine(["a ", "b ", "c"], before=2))
    await client.post("/v1/messages", json=body | {"stream": True})
    [line] = shown.lines
    assert (line["status"], line["state"]) == (200, "failed")
    assert line["error"]
    assert line["output_tokens"] == 2


async def test_a_client_that_left_has_its_line(
    logging_as: Callable[..., Log],
    serve: Callable[..., Any],
    stalling_engine: Any,
    body: dict[str, Any],
) -> None:
    shown = logging_as(log_format="json")
    server = serve(stalling_engine(["a ", "b"], before=1))
    async with httpx.AsyncClient(base_url=server.url) as client:
        asked = body | {"stream": True}
        async with client.stream("POST", "/v1/messages", json=asked) as reply:
            async for line in reply.aiter_lines():
                if "content_block_delta" in line:
                    break
    while not shown.text.endswith("\n"):  # noqa: ASYNC110 - another thread writes it
        await asyncio.sleep(0.005)
    [line] = shown.lines
    assert (line["state"], line["output_tokens"], line["status"]) == ("left", 1, 200)
    assert "error" not in line


def test_what_the_engine_says_is_in_its_own_log(logging_as: Callable[..., Log]) -> None:
    shown = logging_as(log_format="json")
    logging.getLogger("vllm.config").warning("a hundred lines while it opens")
    logging.getLogger("vllmlike").warning("a library's word")
    assert [line["logger"] for line in shown.lines] == ["vllmlike"]
