"""A batch is sent, awaited and read; whatever goes wrong, every request of it has a sample."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from senryu.benches import batches
from senryu.benches.asks import Ask
from senryu.benches.batches import one_batch
from senryu.benches.client.load import Target
from senryu.benches.client.messages import MESSAGES
from senryu.benches.client.sample import Sample

BODY = {"max_tokens": 8, "messages": [{"role": "user", "content": "Write a senryu."}]}
ASKS = tuple((Ask(body=BODY, counted=40 + number),) for number in range(3))
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Any]:
    """Sends a batch of three to a handler; its samples."""
    monkeypatch.setattr(batches, "_POLL", 0.0)
    client = httpx.AsyncClient

    async def asked(handler: Handler) -> list[Sample]:
        def made(**told: Any) -> httpx.AsyncClient:
            return client(transport=httpx.MockTransport(handler), **told)

        monkeypatch.setattr(batches.httpx, "AsyncClient", made)
        samples: list[Sample] = []
        target = Target(url="http://server.test", api=MESSAGES, model="m", key="k", patience=5.0)
        await one_batch(target, ASKS, heard=samples.append)
        return samples

    return asked


def message(tokens: int) -> dict[str, Any]:
    usage = {"input_tokens": 40, "output_tokens": tokens, "cache_read_input_tokens": 2}
    return {
        "type": "succeeded",
        "message": {"usage": usage, "stop_reason": "max_tokens"},
    }


def server(results: list[tuple[str, Any]], looks: int = 2) -> Handler:
    """Works until it was looked at so many times."""
    seen = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.method == "POST":
            return httpx.Response(200, json={"id": "batch_1", "processing_status": "in_progress"})
        if request.url.path.endswith("/results"):
            lines = (json.dumps({"custom_id": name, "result": told}) for name, told in results)
            return httpx.Response(200, text="\n".join(lines) + "\n")
        status = "ended" if len(seen) > looks else "in_progress"
        return httpx.Response(200, json={"id": "batch_1", "processing_status": status})

    return handle


async def test_every_request_is_a_sample_that_ends_with_the_batch(asked: Any) -> None:
    """Results come in any order."""
    samples = await asked(server([("2", message(8)), ("0", message(6)), ("1", message(7))]))
    assert [each.usage.output for each in samples] == [6, 7, 8]
    assert [each.counted for each in samples] == [40, 41, 42]
    assert {each.failure for each in samples} == {None}
    assert len({(each.due, each.ended) for each in samples}) == 1
    assert all(each.ended > each.due and each.first_token is None for each in samples)
    assert samples[0].stop_reason == "max_tokens"
    assert samples[0].usage.prompt == 42


async def test_requests_that_failed_within_it_are_told_by_what_the_server_says(asked: Any) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Too much"}}
    samples = await asked(
        server([("0", {"type": "errored", "error": error}), ("1", {"type": "expired"})])
    )
    assert [(each.failure.kind, each.failure.text) for each in samples] == [
        ("failed", "Too much"),
        ("failed", "it is expired"),
        ("garbled", "the batch has no result of it"),
    ]


def refusing(request: httpx.Request) -> httpx.Response:
    error = {"type": "overloaded_error", "message": "Too many batches"}
    return httpx.Response(529, json={"error": error}, headers={"retry-after": "9"})


def down(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("Connection refused")


def stalling(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("")


@pytest.mark.parametrize(
    ("handler", "kind", "text"),
    [
        (refusing, "refused", "Too many batches"),
        (down, "unreachable", "Connection refused"),
        (stalling, "silent", "nothing came for 5 seconds"),
        (lambda request: httpx.Response(200, text="hello"), "garbled", "is no batch"),
        (lambda request: httpx.Response(200, json=[]), "garbled", "is no batch"),
        (server([("0", 7), ("1", {"type": "succeeded"}), ("2", None)]), "garbled", "result"),
    ],
)
async def test_a_batch_that_comes_to_nothing_is_three_failures(
    asked: Any, handler: Handler, kind: str, text: str
) -> None:
    samples = await asked(handler)
    assert [each.failure.kind for each in samples] == [kind] * 3
    assert text in samples[0].failure.text
    if handler is refusing:
        assert (samples[0].failure.status, samples[0].failure.retry_after) == (529, 9.0)


async def test_a_batch_that_nobody_waits_for_is_cancelled_at_the_server(asked: Any) -> None:
    paths = []
    never = server([], looks=10**9)

    def handle(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return never(request)

    task = asyncio.create_task(asked(handle))
    while len(paths) < 3:  # noqa: ASYNC110 - a handler sets no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert paths[-1] == "/v1/messages/batches/batch_1/cancel"
