"""A row of the ledger is completed once, or lost, and a restart forgives nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.conversation.messages import Usage
from senryu.server.tenancy.account import Ended, Opened, State
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.ledger import Ledger
from senryu.server.tenancy.limiter import Limiter, Used
from senryu.server.tenancy.limits import Limits
from senryu.server.tenancy.store.opening import Store
from senryu.server.tenancy.store.tables import ledger, workspaces
from senryu.server.wire.errors import RateLimited

NOON = int(datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp() * 1000)
ANN = Caller(name="ann", salt="", key_id="apikey_ann", workspace_id="wrkspc_1")


def opened(name: str = "msg_1", at: int = NOON, caller: Caller = ANN, prompt: int = 100) -> Opened:
    return Opened(
        id=name,
        request_id=f"req_{name}",
        caller=caller,
        model="small",
        task="triage",
        user_hash="0123456789abcdef",
        tier="standard",
        batch_id=None,
        started_at=at,
        prompt_tokens=prompt,
        max_tokens=50,
        stream=True,
    )


def ended(of: Opened, state: State = "done", output: int = 7, cost: int = 900) -> Ended:
    usage = Usage(
        input_tokens=10,
        output_tokens=output,
        thinking_tokens=3,
        cache_read_tokens=60,
        cache_creation_5m_tokens=20,
        cache_creation_1h_tokens=10,
    )
    return Ended(
        opened=of,
        state=state,
        usage=usage,
        stop_reason="end_turn",
        ended_at=of.started_at + 2_500,
        queued_ms=30,
        first_token_ms=200,
        cost=cost,
    )


async def rows(store: Store) -> Sequence[dict[str, object]]:
    async with store.reading() as connection:
        found = await connection.execute(select(ledger).order_by(ledger.c.id))
        return [dict(row) for row in found.mappings()]


async def test_a_request_is_in_the_ledger_from_its_admission_on(store: Store) -> None:
    book, first = Ledger(store, "server_1"), opened()
    await book.opened(first)
    (row,) = await rows(store)
    assert row["state"] == "open"
    assert (row["input_tokens"], row["output_tokens"], row["cost"]) == (100, 0, 0)
    assert await book.ended(ended(first)) is True
    (row,) = await rows(store)
    assert row == {
        "id": "msg_1",
        "request_id": "req_msg_1",
        "server": "server_1",
        "key_id": "apikey_ann",
        "workspace_id": "wrkspc_1",
        "model": "small",
        "task": "triage",
        "user_hash": "0123456789abcdef",
        "tier": "standard",
        "state": "done",
        "started_at": NOON,
        "ended_at": NOON + 2_500,
        "input_tokens": 10,
        "cache_read_tokens": 60,
        "cache_creation_5m_tokens": 20,
        "cache_creation_1h_tokens": 10,
        "output_tokens": 7,
        "thinking_tokens": 3,
        "stop_reason": "end_turn",
        "queued_ms": 30,
        "first_token_ms": 200,
        "cost": 900,
        "batch_id": None,
    }


async def test_a_row_is_opened_once_and_completed_once(store: Store) -> None:
    """A write that the database confirmed too late is tried again."""
    book, first = Ledger(store, "server_1"), opened()
    await book.opened(first)
    await book.opened(first)
    told = await asyncio.gather(*(book.ended(ended(first, output=n)) for n in range(20)))
    assert sum(told) == 1
    await book.opened(first)
    (row,) = await rows(store)
    assert (row["state"], row["output_tokens"]) == ("done", told.index(True))


async def test_a_row_that_was_never_opened_is_not_made_up(store: Store) -> None:
    assert await Ledger(store, "server_1").ended(ended(opened())) is False
    assert await rows(store) == []


async def test_what_goes_with_a_row_is_done_when_it_is_completed_and_only_then(
    store: Store,
) -> None:
    book, first = Ledger(store, "server_1"), opened()
    kept: list[int] = []

    async def also(connection: AsyncConnection) -> None:
        number = len(kept)
        row = {"id": f"w{number}", "name": f"w{number}", "limits": {}, "created_at": 1}
        await connection.execute(insert(workspaces).values(row))
        kept.append(number)

    assert await book.ended(ended(first), also) is False
    await book.opened(first)
    assert await book.ended(ended(first), also) is True
    assert await book.ended(ended(first), also) is False
    async with store.reading() as connection:
        assert (await connection.execute(select(func.count(workspaces.c.id)))).scalar() == 1


async def test_when_what_goes_with_it_fails_the_row_stays_open(store: Store) -> None:
    book, first = Ledger(store, "server_1"), opened()
    await book.opened(first)

    async def also(connection: AsyncConnection) -> None:
        row = {"id": "w", "name": "w", "limits": {}, "created_at": 1}
        await connection.execute(insert(workspaces).values([row]))
        await connection.execute(insert(workspaces).values([row]))

    with pytest.raises(IntegrityError):
        await book.ended(ended(first), also)
    assert [row["state"] for row in await rows(store)] == ["open"]
    async with store.reading() as connection:
        assert (await connection.execute(select(func.count(workspaces.c.id)))).scalar() == 0


async def test_what_a_dead_server_left_open_is_lost_and_cannot_be_completed(store: Store) -> None:
    dead, living = Ledger(store, "server_1"), Ledger(store, "server_2")
    done, left, running = opened("a"), opened("b"), opened("c")
    for book, told in ((dead, done), (dead, left), (living, running)):
        await book.opened(told)
    await dead.ended(ended(done))
    assert await living.lose({"server_2"}) == 1
    assert await living.lose({"server_2"}) == 0
    assert await dead.ended(ended(left)) is False
    found = [(row["state"], row["input_tokens"], row["output_tokens"]) for row in await rows(store)]
    assert found == [("done", 10, 7), ("lost", 100, 0), ("open", 100, 0)]


async def test_a_limiter_that_begins_knows_what_was_used(store: Store) -> None:
    book = Ledger(store, "server_1")
    at = {
        "lately": NOON - 10_000,
        "before": NOON - 700_000,
        "yesterday": NOON - 86_400_000,
        "last month": NOON - 20 * 86_400_000,
    }
    for name, when in at.items():
        await book.opened(told := opened(name, when))
        await book.ended(ended(told, cost=10**15))
    await book.opened(opened("running", NOON - 500))
    await book.opened(opened("nobody's", NOON - 86_400_000, Caller(name="", salt="")))

    def used(requests: int, read: int, written: int, cost: int, at: float = 0.0) -> Used:
        return Used(
            key_id="apikey_ann",
            workspace_id="wrkspc_1",
            at=at,
            requests=requests,
            input_tokens=read,
            output_tokens=written,
            cost=cost,
        )

    past = await book.past(NOON)
    assert sorted(past.recent, key=lambda used: used.at) == [
        used(1, 40, 7, 10**15, at=NOON / 1000 - 7),
        used(1, 100, 0, 0, at=NOON / 1000),
    ]
    assert past.day == [used(3, 180, 14, 2 * 10**15)]
    assert sorted(past.month, key=lambda used: used.requests)[1] == used(4, 220, 21, 3 * 10**15)
    assert {used.key_id for used in past.month} == {None, "apikey_ann"}

    limiter = Limiter(lambda: NOON / 1000)
    limiter.remember(past, NOON / 1000)
    for limits in (
        Limits(requests_per_minute=1),
        Limits(input_tokens_per_minute=100),
        Limits(tokens_per_day=194),
        Limits(tokens_per_month=241),
        Limits(usd_per_month=3_000_000),
    ):
        known = Caller(name="ann", salt="", key_id="apikey_ann", limits=limits)
        with pytest.raises(RateLimited):
            limiter.check(known)
        other = Caller(
            name="bob", salt="", key_id="b", workspace_id="wrkspc_1", workspace_limits=limits
        )
        with pytest.raises(RateLimited):
            limiter.check(other)
        limiter.check(Caller(name="bob", salt="", key_id="b", limits=limits))


async def test_the_past_of_batches_counts_for_budgets_and_only_what_they_answered(
    store: Store,
) -> None:
    book = Ledger(store, "server_1")
    for name in ("done", "lost"):
        request = replace(opened(f"msg_{name}", NOON - 5_000), tier="batch", batch_id="msgbatch_1")
        await book.opened(request)
        if name == "done":
            await book.ended(ended(request))
    await book.lose([])
    past = await book.past(NOON)
    assert past.recent == []
    assert [used.requests for used in past.day] == [used.requests for used in past.month] == [1]


async def test_the_past_of_an_empty_ledger_is_empty(store: Store) -> None:
    past = await Ledger(store, "server_1").past(NOON)
    assert (past.recent, past.day, past.month) == ([], [], [])
