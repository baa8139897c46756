"""The outside judge: the official client sends batches, as it would to the hosted service."""

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anthropic
import httpx
import pytest
import uvicorn
import uvloop
from anthropic import Anthropic
from anthropic.types.messages import MessageBatch

from senryu.server.answering import answer_item
from senryu.server.app import build_app
from senryu.server.engine.scripted import POEM, ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.signing_key import read_secret
from senryu.server.tenancy.tenancy import open_tenancy

PATH = "/v1/messages/batches"


def params(**changed: Any) -> Any:
    asked = {"model": "claude-haiku-4-5", "max_tokens": 50}
    return {**asked, "messages": [{"role": "user", "content": "Write a senryu."}], **changed}


def requests(*custom_ids: str, **changed: Any) -> Any:
    return [{"custom_id": each, "params": params(**changed)} for each in custom_ids]


Start = Callable[..., str]


@pytest.fixture
def stops() -> Iterator[dict[str, Callable[[], None]]]:
    """What ends the servers that still run, by their addresses."""
    stops: dict[str, Callable[[], None]] = {}
    yield stops
    for stop in stops.values():
        stop()


@pytest.fixture
def stop(stops: dict[str, Callable[[], None]]) -> Callable[[str], None]:
    """Stops the server that has that address."""
    return lambda url: stops.pop(url)()


@pytest.fixture
def start(
    address: str, tmp_path_factory: pytest.TempPathFactory, stops: dict[str, Callable[[], None]]
) -> Start:
    """Starts servers on this test's database, each in a thread, and tells their addresses."""

    def start(engine: ScriptedEngine | None = None, **changed: Any) -> str:
        settings = ServerSettings(
            engine="scripted",
            signing_key="the tests' own",
            database=address,
            data=str(tmp_path_factory.mktemp("data")),
            **changed,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            tenancy = await open_tenancy(settings, read_secret(settings))
            app = build_app(settings, engine or ScriptedEngine(), tenancy=tenancy)
            answer = partial(answer_item, app.state)
            await tenancy.start(answer, batch_streams=4, batch_days=settings.batch_days)
            config = uvicorn.Config(
                app, http="httptools", lifespan="off", log_level="warning", server_header=False
            )
            servers.append(uvicorn.Server(config))
            await servers[0].serve(sockets=[listener])
            await tenancy.close()

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run, name="server under test")
        thread.start()

        def stop() -> None:
            servers[0].should_exit = True
            thread.join(timeout=20)
            listener.close()
            assert not thread.is_alive(), "the server did not stop"

        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stops[url] = stop
        httpx.get(f"{url}/api/hello", timeout=60)
        return url

    return start


@pytest.fixture
def client(start: Start) -> Iterator[Anthropic]:
    with Anthropic(base_url=start(), api_key="local", max_retries=0) as client:
        yield client


def url_of(client: Anthropic) -> str:
    return str(client.base_url).rstrip("/")


def ended(client: Anthropic, batch: MessageBatch) -> MessageBatch:
    deadline = time.monotonic() + 30
    while (batch := client.messages.batches.retrieve(batch.id)).processing_status != "ended":
        assert time.monotonic() < deadline
        assert batch.results_url is None
        assert batch.request_counts.processing > 0
        time.sleep(0.02)
    return batch


def test_a_batch_is_made_answered_and_read(client: Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests("a", "b", "c"))
    assert batch.id.startswith("msgbatch_")
    assert (batch.type, batch.processing_status) == ("message_batch", "in_progress")
    assert batch.request_counts.processing == 3
    assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
    assert (batch.ended_at, batch.archived_at, batch.cancel_initiated_at) == (None, None, None)
    batch = ended(client, batch)
    assert batch.request_counts.to_dict() == {
        "processing": 0,
        "succeeded": 3,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    assert batch.ended_at
    assert batch.results_url == f"{url_of(client)}{PATH}/{batch.id}/results"
    told = {each.custom_id: each.result for each in client.messages.batches.results(batch.id)}
    assert sorted(told) == ["a", "b", "c"]
    for result in told.values():
        assert result.type == "succeeded"
        block = result.message.content[0]
        assert block.type == "text"
        assert block.text == POEM
        assert result.message.usage.service_tier == "batch"


def test_what_is_wrong_with_one_request_is_told_in_its_result(client: Anthropic) -> None:
    wrong = [
        *requests("good"),
        *requests("streamed", stream=True),
        *requests("nothing", max_tokens=0),
        *requests("quick", speed="standard"),
        *requests("elsewhere", model="gpt-9"),
        *requests("threaded", thread={"type": "create"}),
        *requests("hinted", cache_hint="x"),
        *requests("fallen", fallbacks=[{"model": "m"}]),
        {"custom_id": "empty", "params": {}},
    ]
    batch = ended(client, client.messages.batches.create(requests=wrong))
    counts = batch.request_counts
    assert (counts.succeeded, counts.errored) == (1, 8)
    told = {each.custom_id: each.result for each in client.messages.batches.results(batch.id)}
    kinds = {}
    for name, result in told.items():
        if result.type == "errored":
            assert result.error.request_id
            assert result.error.request_id.startswith("req_")
            kinds[name] = result.error.error.type
    assert kinds.pop("elsewhere") == "not_found_error"
    assert set(kinds.values()) == {"invalid_request_error"}
    assert len(kinds) == 7


def test_the_list_is_paged_by_the_client(client: Anthropic) -> None:
    made = [client.messages.batches.create(requests=requests("a")).id for _ in range(5)]
    listed = [batch.id for batch in client.messages.batches.list(limit=2)]
    assert sorted(listed) == sorted(made)
    page = client.messages.batches.list(limit=2, after_id=listed[1])
    assert [batch.id for batch in page.data] == listed[2:4]
    assert (page.first_id, page.last_id, page.has_more) == (listed[2], listed[3], True)
    page = client.messages.batches.list(limit=10, before_id=listed[2])
    assert ([batch.id for batch in page.data], page.has_more) == (listed[:2], False)
    for query in ({"limit": 0}, {"limit": 1001}, {"after_id": made[0], "before_id": made[1]}):
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.list(**query)


def test_batches_are_deleted_while_the_client_pages_through_them(client: Anthropic) -> None:
    for _ in range(5):
        ended(client, client.messages.batches.create(requests=requests("a")))
    for batch in client.messages.batches.list(limit=2):
        gone = client.messages.batches.delete(batch.id)
        assert gone.to_dict() == {"id": batch.id, "type": "message_batch_deleted"}
        with pytest.raises(anthropic.NotFoundError):
            client.messages.batches.retrieve(batch.id)
    assert client.messages.batches.list().data == []


def test_a_batch_is_canceled(start: Start, stalling_engine: Any) -> None:
    engine = stalling_engine(POEM, before=3)
    with Anthropic(base_url=start(engine), api_key="local", max_retries=0) as client:
        names = [f"n{number}" for number in range(30)]
        batch = client.messages.batches.create(requests=requests(*names))
        with pytest.raises(anthropic.BadRequestError, match="has not ended"):
            client.messages.batches.delete(batch.id)
        with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
            client.messages.batches.results(batch.id)
        early = httpx.get(f"{url_of(client)}{PATH}/{batch.id}/results")
        assert (early.status_code, early.json()["error"]["type"]) == (404, "not_found_error")
        batch = client.messages.batches.cancel(batch.id)
        assert (batch.processing_status, batch.request_counts.processing) == ("canceling", 30)
        assert batch.cancel_initiated_at
        engine.released.set()
        batch = ended(client, batch)
        counts = batch.request_counts
        assert counts.succeeded + counts.canceled == 30
        assert counts.canceled >= 26
        kinds = [each.result.type for each in client.messages.batches.results(batch.id)]
        assert kinds.count("canceled") == counts.canceled
        assert client.messages.batches.cancel(batch.id) == batch


def test_a_batch_survives_the_server(
    start: Start, stop: Callable[[str], None], stalling_engine: Any
) -> None:
    """Stopped in the middle, what was not finished is done by the next server."""
    url = start(stalling_engine(POEM, before=3))
    with Anthropic(base_url=url, api_key="local") as client:
        names = [f"n{number}" for number in range(20)]
        batch = client.messages.batches.create(requests=requests(*names))
    stop(url)
    with Anthropic(base_url=start(), api_key="local") as client:
        batch = ended(client, batch)
        told = [each.custom_id for each in client.messages.batches.results(batch.id)]
        assert sorted(told) == sorted(names)


def test_each_key_has_its_own_batches_and_a_key_for_batches_may_make_them(start: Start) -> None:
    url = start(api_keys=("ann=k1", "bob@team=k2", "cy@team=k3"))
    ann, bob, cy = (Anthropic(base_url=url, api_key=f"k{n}", max_retries=0) for n in (1, 2, 3))
    batch = ended(bob, bob.messages.batches.create(requests=requests("a")))
    assert cy.messages.batches.retrieve(batch.id) == batch
    assert len(list(cy.messages.batches.results(batch.id))) == 1
    for call in (ann.messages.batches.retrieve, ann.messages.batches.delete):
        with pytest.raises(anthropic.NotFoundError):
            call(batch.id)
    assert ann.messages.batches.list().data == []
    stranger = Anthropic(base_url=url, api_key="k4", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.batches.list()


def test_the_version_of_the_one_who_made_it_holds_for_each_request(client: Anthropic) -> None:
    """Sampling parameters are refused since 2026-10-21 (contract 4.2)."""
    made = {}
    for version in ("2023-06-01", "2026-10-21"):
        batch = client.messages.batches.create(
            requests=requests("a", temperature=0.5), extra_headers={"anthropic-version": version}
        )
        counts = ended(client, batch).request_counts
        made[version] = (counts.succeeded, counts.errored)
    assert made == {"2023-06-01": (1, 0), "2026-10-21": (0, 1)}


def test_results_are_offered_at_the_address_that_the_client_used(client: Anthropic) -> None:
    batch = ended(client, client.messages.batches.create(requests=requests("a")))
    url, path = f"{url_of(client)}{PATH}/{batch.id}", f"{PATH}/{batch.id}/results"

    def told(**headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(url, headers=named).json()["results_url"]

    assert told(host="box.example:8080") == f"http://box.example:8080{path}"
    forwarded = {"x_forwarded_proto": "https", "x_forwarded_host": "ai.example, inner.example"}
    assert told(**forwarded) == f"https://ai.example{path}"
    assert told(**forwarded, x_forwarded_prefix="/llm/") == f"https://ai.example/llm{path}"
    assert told(x_forwarded_host="a/b?c") == path
    assert told(x_forwarded_proto="javascript") == path


def test_the_body_may_be_packed_and_may_not_be_too_long(start: Start) -> None:
    url = start(batch_limit_mb=0.25, body_limit_mb=0.125) + PATH
    body = json.dumps({"requests": requests("a")}).encode()
    packed = {"content-encoding": "gzip"}

    def post(content: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
        reply = httpx.post(url, content=content, headers=headers or {})
        error = reply.json().get("error", {})
        code = error.get("details", {}).get("error_code", error.get("type", "good"))
        return reply.status_code, code

    assert post(body) == (200, "good")
    assert post(gzip.compress(body[:50]) + gzip.compress(body[50:]), packed) == (200, "good")
    bomb = b" " * 2**18 + body
    assert post(bomb) == (413, "request_too_large")
    assert post(iter([bomb[:99], bomb[99:]])) == (413, "request_too_large")
    too_long = (413, "request_body_too_large_after_decoding")
    assert post(gzip.compress(bomb), packed) == too_long
    wrong = (400, "request_body_encoding_invalid")
    assert post(gzip.compress(body)[:-9], packed) == wrong
    assert post(body, packed) == wrong
    assert post(b"", packed) == wrong
    assert post(body, {"content-encoding": "br"}) == (400, "request_body_encoding_unsupported")
    assert post(b"") == (400, "invalid_request_error")
    assert post(b'{"requests":[{]}') == (400, "invalid_request_error")
    long = json.dumps({"requests": requests("a", system="x" * 2**17)})
    assert post(long) == (413, "request_too_large"), "no request is longer than one alone may be"


def test_a_batch_longer_than_memory_should_hold_is_read_from_the_disk(client: Anthropic) -> None:
    names = [f"n{number}" for number in range(130)]
    asked = requests(*names, system="x" * 10_000)
    batch = ended(client, client.messages.batches.create(requests=asked))
    assert batch.request_counts.succeeded == 130


def test_without_a_database_there_are_no_batches(server: Any) -> None:
    reply = httpx.post(server.url + PATH, json={"requests": requests("a")})
    assert reply.status_code == 404
    assert "`database` is none" in reply.json()["error"]["message"]
