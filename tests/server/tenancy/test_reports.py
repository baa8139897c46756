"""Sums of the ledger are the sums of what clients saw, however they are grouped."""

import random
from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from senryu.server.tenancy.reports import DIMENSIONS, Which, each, lost, summed
from senryu.server.tenancy.store.opening import Store
from senryu.server.tenancy.store.tables import ledger

HOUR = 3_600_000
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
ALL = Which(since=START, until=START + 48 * HOUR)


def row(number: int, **changed: object) -> dict[str, object]:
    return {
        "id": f"msg_{number:05}",
        "request_id": f"req_{number}",
        "server": "server_1",
        "key_id": "apikey_ann",
        "workspace_id": "wrkspc_1",
        "model": "small",
        "task": None,
        "tier": "standard",
        "state": "done",
        "started_at": START + number,
        "ended_at": START + number + 1_000,
        "input_tokens": 10,
        "cache_read_tokens": 20,
        "cache_creation_5m_tokens": 30,
        "cache_creation_1h_tokens": 40,
        "output_tokens": 50,
        "thinking_tokens": 5,
        "cost": 7,
    } | changed


async def fill(store: Store, *rows: dict[str, object]) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(insert(ledger), rows)


async def test_nothing_sums_to_nothing(store: Store) -> None:
    assert await summed(store, ALL) == []
    assert await summed(store, ALL, tuple(DIMENSIONS), HOUR) == []
    assert [rows async for rows in each(store, ALL)] == []


async def test_every_grouping_sums_to_the_same(store: Store) -> None:
    chance = random.Random(3)
    rows = [
        row(
            number,
            key_id=chance.choice((None, "a", "b")),
            workspace_id=chance.choice((None, "w")),
            model=chance.choice(("small", "large")),
            task=chance.choice((None, "triage")),
            tier=chance.choice(("standard", "batch")),
            started_at=START + chance.randrange(48 * HOUR),
            output_tokens=chance.randrange(1_000),
            input_tokens=chance.choice((0, 2**31 - 1)),
            cost=chance.randrange(10**12),
        )
        for number in range(80)
    ]
    await fill(store, *rows)
    written = sum(int(str(each_["output_tokens"])) for each_ in rows)
    cost = sum(int(str(each_["cost"])) for each_ in rows)
    for by in ((), *((name,) for name in DIMENSIONS), tuple(DIMENSIONS)):
        for width in (None, 60_000, HOUR, 24 * HOUR):
            found = await summed(store, ALL, by, width)
            assert sum(sums.tokens["output"] for sums in found) == written
            assert sum(sums.cost for sums in found) == cost
            assert sum(sums.requests for sums in found) == 80
            assert all(sums.start % (width or HOUR) == 0 for sums in found)
            assert [sums.start for sums in found] == sorted(sums.start for sums in found)
    models = await summed(store, ALL, ("model",))
    seen = Counter(each_["model"] for each_ in rows)
    assert {sums.group["model"]: sums.requests for sums in models} == dict(seen)


async def test_all_kinds_of_tokens_are_told_apart(store: Store) -> None:
    await fill(store, row(1), row(2))
    (sums,) = await summed(store, ALL)
    assert dict(sums.tokens) == {
        "input": 20,
        "cache_read": 40,
        "cache_creation_5m": 60,
        "cache_creation_1h": 80,
        "output": 100,
    }
    assert (sums.thinking_tokens, sums.cost, sums.requests) == (10, 14, 2)


async def test_what_runs_or_was_lost_is_in_no_sum(store: Store) -> None:
    states = ("open", "lost", "done", "left", "failed")
    await fill(store, *(row(number, state=state) for number, state in enumerate(states)))
    (sums,) = await summed(store, ALL)
    assert sums.requests == 3
    assert await lost(store, ALL) == 1
    (rows,) = [rows async for rows in each(store, ALL)]
    assert [found.state for found in rows] == ["done", "left", "failed"]


async def test_a_time_belongs_to_one_bucket(store: Store) -> None:
    times = (START - 1, START, START + HOUR - 1, START + HOUR, START + 48 * HOUR)
    await fill(store, *(row(number, started_at=at) for number, at in enumerate(times)))
    found = await summed(store, ALL, (), HOUR)
    assert [(sums.start, sums.requests) for sums in found] == [(START, 2), (START + HOUR, 1)]


@pytest.mark.parametrize(
    ("only", "requests"),
    [
        ({"api_key_id": ("a", "b")}, 2),
        ({"api_key_id": ("a",), "model": ("large",)}, 0),
        ({"service_tier": ("batch",)}, 1),
        ({"context_window": ("200k-1M",)}, 1),
        ({"inference_geo": ("us",)}, 0),
        ({"inference_geo": ("not_available",)}, 3),
        ({"task": ("triage",)}, 1),
        ({"model": ()}, 3),
    ],
)
async def test_rows_are_chosen_by_what_they_are(
    store: Store, only: dict[str, tuple[str, ...]], requests: int
) -> None:
    await fill(
        store,
        row(1, key_id="a"),
        row(2, key_id="b", tier="batch", task="triage"),
        row(3, key_id="c", input_tokens=200_000, model="large"),
    )
    which = Which(since=ALL.since, until=ALL.until, only=only)
    assert sum(sums.requests for sums in await summed(store, which)) == requests
    assert sum([len(rows) async for rows in each(store, which)]) == requests


async def test_every_row_comes_once_and_in_order_a_page_at_a_time(store: Store) -> None:
    """Many begin at the same time, where a page ends."""
    rows = [row(number, started_at=START + number // 700) for number in range(2_500)]
    async with store.engine.begin() as connection:
        await connection.execute(insert(ledger), rows)
    pages = [[found.id for found in page] async for page in each(store, ALL)]
    assert [len(page) for page in pages] == [1_000, 1_000, 500]
    assert [name for page in pages for name in page] == [str(each_["id"]) for each_ in rows]
