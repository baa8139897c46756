"""One message batch: sent, asked about until it has ended, and read.

Comes in: a target, and conversations of one request each. Goes out: a sample of each request. They
have no first token, and all end when the batch has ended: nobody waits for one of a batch.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from .asks import Ask, Conversation
from .client.sample import Failure, Sample, Usage

if TYPE_CHECKING:
    from .client.load import Target

_PATH = "/v1/messages/batches"
_POLL = 0.25
"""Seconds between two looks: what the end of a batch may be late by."""


class _Refused(Exception):
    """A status that is not 200."""

    def __init__(self, reply: httpx.Response) -> None:
        super().__init__(_sentence(reply))
        self.status = reply.status_code
        self.retry_after = _seconds(reply.headers.get("retry-after"))


async def one_batch(
    target: Target, conversations: Sequence[Conversation], *, heard: Callable[[Sample], None]
) -> None:
    """Tells of every request, whatever became of the batch. A batch that nobody waits for any more
    is cancelled at the server."""
    asks = [ask for conversation in conversations for ask in conversation]
    due = time.perf_counter()
    results: Mapping[str, Any] = {}
    failure: Failure | None = None
    headers = {"anthropic-version": "2023-06-01", "x-api-key": target.key}
    async with httpx.AsyncClient(
        base_url=target.url, headers=headers, timeout=target.patience
    ) as client:
        try:
            name = await _sent(client, asks, target.model)
            await _awaited(client, name)
            ended = time.perf_counter()
            results = await _read(client, name)
        except _Refused as error:
            ended = time.perf_counter()
            failure = Failure(
                kind="refused",
                text=str(error),
                status=error.status,
                retry_after=error.retry_after,
            )
        except httpx.TimeoutException:
            ended = time.perf_counter()
            failure = Failure(kind="silent", text=f"nothing came for {target.patience:g} seconds")
        except httpx.HTTPError as error:
            ended = time.perf_counter()
            failure = Failure(kind="unreachable", text=str(error) or type(error).__name__)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            ended = time.perf_counter()
            failure = Failure(kind="garbled", text=f"what came is no batch: {error!r}")
    for number, ask in enumerate(asks):
        heard(_sample(ask, results.get(str(number)), due, ended, failure))


async def _sent(client: httpx.AsyncClient, asks: Sequence[Ask], model: str) -> str:
    requests = [
        {"custom_id": str(number), "params": {**ask.body, "model": model}}
        for number, ask in enumerate(asks)
    ]
    name: str = _body(await client.post(_PATH, json={"requests": requests}))["id"]
    return name


async def _awaited(client: httpx.AsyncClient, name: str) -> None:
    try:
        status = "in_progress"
        while status != "ended":
            await asyncio.sleep(_POLL)
            status = _body(await client.get(f"{_PATH}/{name}"))["processing_status"]
    except asyncio.CancelledError:
        with suppress(httpx.HTTPError):
            await client.post(f"{_PATH}/{name}/cancel")
        raise


async def _read(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """The results by the names of their requests."""
    reply = await client.get(f"{_PATH}/{name}/results")
    if reply.status_code != 200:
        raise _Refused(reply)
    lines = [json.loads(line) for line in reply.text.split("\n") if line.strip()]
    return {line["custom_id"]: line["result"] for line in lines}


def _sample(ask: Ask, result: Any, due: float, ended: float, failure: Failure | None) -> Sample:
    usage, stop_reason = None, None
    if failure is None:
        usage, stop_reason, failure = _told(result)
    return Sample(
        due=due,
        sent=due,
        ended=ended,
        asked_tokens=ask.max_tokens,
        usage=usage,
        stop_reason=stop_reason,
        counted=ask.counted,
        failure=failure,
    )


def _told(result: Any) -> tuple[Usage | None, str | None, Failure | None]:
    """Of one result: its usage, why it stopped, and why it failed."""
    try:
        if result["type"] == "succeeded":
            message = result["message"]
            return _usage(message.get("usage")), message.get("stop_reason"), None
        if result["type"] == "errored":
            error = result["error"]
            return (
                None,
                None,
                Failure(kind="failed", text=str(error.get("error", error)["message"])),
            )
        return None, None, Failure(kind="failed", text=f"it is {result['type']}")
    except (LookupError, TypeError, AttributeError):
        text = "the batch has no result of it" if result is None else "its result cannot be read"
        return None, None, Failure(kind="garbled", text=text)


def _usage(told: Any) -> Usage | None:
    if told is None:
        return None
    return Usage(
        input=int(told["input_tokens"]),
        output=int(told["output_tokens"]),
        cache_read=told.get("cache_read_input_tokens"),
        cache_creation=told.get("cache_creation_input_tokens"),
    )


def _body(reply: httpx.Response) -> Any:
    if reply.status_code != 200:
        raise _Refused(reply)
    return reply.json()


def _sentence(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return reply.text[:300] or reply.reason_phrase


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else float(header)
    except ValueError:
        return None
