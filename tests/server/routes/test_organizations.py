"""The reports: in the hosted shapes, for admins, and as CSV a line for each request."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.tenancy.store.tables import ledger

USAGE = "/v1/organizations/usage_report/messages"
COST = "/v1/organizations/cost_report"
DAY = 86_400_000
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
FROM = {"starting_at": "2026-11-01T00:00:00Z", "ending_at": "2026-11-04T00:00:00Z"}


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{number:05}",
        "request_id": f"req_{number}",
        "server": "server_1",
        "key_id": "apikey_ann",
        "workspace_id": "wrkspc_1",
        "model": "small",
        "task": "triage",
        "tier": "standard",
        "state": "done",
        "started_at": START + number,
        "ended_at": START + number + 1_000,
        "input_tokens": 1_000,
        "cache_read_tokens": 2_000,
        "cache_creation_5m_tokens": 300,
        "cache_creation_1h_tokens": 40,
        "output_tokens": 500,
        "thinking_tokens": 5,
        # A million for 1 and 5 dollars: 1,000 and 200 and 375 and 80 and 2,500 thousandths of one.
        "cost": 4_155_000,
    } | changed


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(str(tmp_path / "senryu.db"))
    yield store
    await store.close()


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """It has the operator's key; `ann` has one of her own."""
    settings = ServerSettings(
        engine="scripted", signing_key="k", api_key="operator", api_keys=("ann=anns",)
    )
    app = build_app(settings, ScriptedEngine())
    app.state.store = store
    transport, headers = httpx.ASGITransport(app), {"x-api-key": "operator"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://senryu.test", headers=headers
    ) as client:
        yield client


async def fill(store: Store, *rows: dict[str, Any]) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(insert(ledger), rows)


async def got(client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    reply = await client.get(path, params=FROM | query)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


async def test_usage_has_the_hosted_shape_and_empty_days_too(
    client: httpx.AsyncClient, store: Store
) -> None:
    await fill(store, row(1), row(2), row(3, started_at=START + 2 * DAY, state="open"))
    body = await got(client, USAGE)
    assert (body["has_more"], body["next_page"]) == (False, None)
    assert [bucket["starting_at"] for bucket in body["data"]] == [
        f"2026-11-0{day}T00:00:00Z" for day in (1, 2, 3)
    ]
    first, second, third = body["data"]
    assert first["ending_at"] == second["starting_at"]
    assert second["results"] == third["results"] == []
    assert first["results"] == [
        {
            "uncached_input_tokens": 2_000,
            "cache_creation": {"ephemeral_1h_input_tokens": 80, "ephemeral_5m_input_tokens": 600},
            "cache_read_input_tokens": 4_000,
            "output_tokens": 1_000,
            "server_tool_use": {"web_search_requests": 0},
            "api_key_id": None,
            "workspace_id": None,
            "model": None,
            "service_tier": None,
            "context_window": None,
            "inference_geo": None,
            "task": None,
            "requests": 2,
            "thinking_tokens": 10,
        }
    ]


async def test_usage_is_grouped_and_chosen_with_lists_as_the_hosted_api_spells_them(
    client: httpx.AsyncClient, store: Store
) -> None:
    await fill(store, row(1), row(2, key_id="apikey_bob", tier="batch"), row(3, model="large"))
    asked = {
        "group_by[]": ["api_key_id", "model", "service_tier", "context_window", "task"],
        "models[]": ["small"],
    }
    (result, other) = (await got(client, USAGE, **asked))["data"][0]["results"]
    names = ("api_key_id", "model", "service_tier", "context_window", "task", "workspace_id")
    assert {tuple(each[name] for name in names) for each in (result, other)} == {
        ("apikey_ann", "small", "standard", "0-200k", "triage", None),
        ("apikey_bob", "small", "batch", "0-200k", "triage", None),
    }
    tiers = await got(client, USAGE, group_by="service_tier", service_tiers="batch")
    assert [each["requests"] for each in tiers["data"][0]["results"]] == [1]


async def test_pages_lead_through_all_buckets(client: httpx.AsyncClient, store: Store) -> None:
    await fill(store, *(row(n, started_at=START + n * 3_600_000) for n in range(72)))
    query: dict[str, Any] = {"bucket_width": "1h", "limit": 31}
    seen, pages = [], 0
    while True:
        body = await got(client, USAGE, **query)
        seen += [bucket["results"][0]["requests"] for bucket in body["data"]]
        pages += 1
        if not body["has_more"]:
            break
        query["page"] = body["next_page"]
    assert (pages, seen) == (3, [1] * 72)


async def test_without_an_end_it_goes_on_until_now(client: httpx.AsyncClient, store: Store) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    await fill(store, row(1, started_at=now - 1_000))
    query = {"starting_at": datetime.fromtimestamp(now / 1000 - 60, UTC).isoformat()}
    body = (await client.get(USAGE, params=query)).json()
    assert sum(r["requests"] for bucket in body["data"] for r in bucket["results"]) == 1


async def test_costs_are_exact_cents(client: httpx.AsyncClient, store: Store) -> None:
    await fill(store, row(1), row(2, workspace_id=None, cost=1))
    ((result,), *_) = [bucket["results"] for bucket in (await got(client, COST))["data"]]
    assert result == {
        "currency": "USD",
        "amount": "0.4155001",
        "workspace_id": None,
        "description": None,
        "cost_type": None,
        "context_window": None,
        "model": None,
        "service_tier": None,
        "token_type": None,
        "inference_geo": None,
        "api_key_id": None,
        "task": None,
    }
    by = (await got(client, COST, **{"group_by[]": "workspace_id"}))["data"][0]["results"]
    assert {each["workspace_id"]: each["amount"] for each in by} == {
        None: "0.0000001",
        "wrkspc_1": "0.4155",
    }


async def test_costs_that_are_described_are_told_apart_by_kind_and_sum_to_the_ledger(
    client: httpx.AsyncClient, store: Store
) -> None:
    await fill(store, row(1), row(2, tier="batch", cost=2_077_500))
    body = await got(client, COST, **{"group_by[]": ["description", "workspace_id"]})
    results = body["data"][0]["results"]
    amounts = {(each["service_tier"], each["token_type"]): each["amount"] for each in results}
    assert amounts == {
        ("standard", "uncached_input_tokens"): "0.1",
        ("standard", "cache_read_input_tokens"): "0.02",
        ("standard", "cache_creation.ephemeral_5m_input_tokens"): "0.0375",
        ("standard", "cache_creation.ephemeral_1h_input_tokens"): "0.008",
        ("standard", "output_tokens"): "0.25",
        ("batch", "uncached_input_tokens"): "0.05",
        ("batch", "cache_read_input_tokens"): "0.01",
        ("batch", "cache_creation.ephemeral_5m_input_tokens"): "0.01875",
        ("batch", "cache_creation.ephemeral_1h_input_tokens"): "0.004",
        ("batch", "output_tokens"): "0.125",
    }
    assert {each["workspace_id"] for each in results} == {"wrkspc_1"}
    assert {each["cost_type"] for each in results} == {"tokens"}
    assert "small: output tokens in batches" in {each["description"] for each in results}


@pytest.mark.parametrize("asked", [{"format": "csv"}, {}])
async def test_csv_has_a_line_for_each_request(
    client: httpx.AsyncClient, store: Store, asked: dict[str, str]
) -> None:
    await fill(
        store, *(row(number) for number in range(1, 2_002)), row(0, task='=1+1,"', stop_reason=None)
    )
    headers = {} if asked else {"accept": "text/csv"}
    reply = await client.get(USAGE, params=FROM | asked, headers=headers)
    assert reply.headers["content-type"].startswith("text/csv")
    first, *others = csv.DictReader(io.StringIO(reply.text))
    assert len(others) == 2_001
    assert len({line["id"] for line in others}) == 2_001
    assert first == {
        "started_at": "2026-11-01T00:00:00.000Z",
        "ended_at": "2026-11-01T00:00:01.000Z",
        "id": "msg_00000",
        "request_id": "req_0",
        "api_key_id": "apikey_ann",
        "workspace_id": "wrkspc_1",
        "model": "small",
        "task": "'=1+1,\"",
        "user_hash": "",
        "service_tier": "standard",
        "batch_id": "",
        "state": "done",
        "stop_reason": "",
        "uncached_input_tokens": "1000",
        "cache_creation_5m_input_tokens": "300",
        "cache_creation_1h_input_tokens": "40",
        "cache_read_input_tokens": "2000",
        "output_tokens": "500",
        "thinking_tokens": "5",
        "queued_ms": "",
        "first_token_ms": "",
        "cost_usd": "0.004155",
    }


@pytest.mark.parametrize("path", [USAGE, COST])
async def test_reports_are_for_admins(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path, params=FROM, headers={"x-api-key": "anns"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    reply = await client.get(path, params=FROM, headers={"x-api-key": "nobody's"})
    assert reply.status_code == 401


@pytest.mark.parametrize("path", [USAGE, COST])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"starting_at": ""}, "starting_at: Input should be a valid datetime"),
        ({"starting_at": "soon"}, "starting_at: Input should be a valid datetime"),
        ({"starting_at": "9999-12-31T23:59:59Z"}, "starting_at: Input should be a valid datetime"),
        ({"starting_at": "0001-01-01T00:00:00+14:00"}, "starting_at: Input should be"),
        ({"ending_at": "2026-11-01T00:00:00Z"}, "ending_at: must be after starting_at"),
        ({"bucket_width": "1w"}, "bucket_width: Input should be '1m', '1h' or '1d'"),
        ({"limit": "32"}, "limit: Input should be an integer from 1 to 31 for 1d"),
        ({"limit": "0"}, "limit: Input should be an integer"),
        ({"limit": "²"}, "limit: Input should be an integer"),
        ({"page": "page_x"}, "page: send the next_page"),
        ({"page": "page_ÿ"}, "page: send the next_page"),
        ({"group_by[]": "mood"}, "group_by: Input should be"),
    ],
)
async def test_what_cannot_be_reported_is_said(
    client: httpx.AsyncClient, path: str, query: dict[str, str], said: str
) -> None:
    reply = await client.get(path, params=FROM | query)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json()["error"]["message"].startswith(said)


async def test_a_start_is_wanted(client: httpx.AsyncClient) -> None:
    reply = await client.get(USAGE)
    assert reply.json()["error"]["message"] == "starting_at: Field required"


async def test_a_server_without_a_database_says_that_there_is_no_ledger() -> None:
    settings = ServerSettings(engine="scripted", signing_key="k", database="none")
    transport = httpx.ASGITransport(build_app(settings, ScriptedEngine()))
    async with httpx.AsyncClient(transport=transport, base_url="http://senryu.test") as client:
        reply = await client.get(USAGE, params=FROM)
    assert reply.status_code == 404
    assert "keeps no ledger" in reply.json()["error"]["message"]
