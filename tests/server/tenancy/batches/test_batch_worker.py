"""Each request of a batch has one result in the end, whatever happens on the way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from batching import (
    ANN,
    BOB,
    CALLERS,
    HOUR,
    Answering,
    Clock,
    asking,
    batches_of,
    counts,
    ended,
    results,
    spoken,
    texts,
    until,
    worker_of,
)
from sqlalchemy import update

from senryu.server.tenancy import batch_worker
from senryu.server.tenancy.batches import Batches
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.tenancy.store.tables import batches as batches_table
from senryu.server.wire.errors import (
    ApiError,
    BudgetSpent,
    EngineFailed,
    InvalidRequest,
    NotReady,
    Overloaded,
    RateLimited,
    TimedOut,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answering(store: Store) -> Answering:
    return Answering(store)


@pytest.fixture
async def batches(
    store: Store, answering: Answering, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Batches]:
    """Those of a server whose worker has begun."""
    monkeypatch.setattr(batch_worker, "_LOOK", 0.02)
    monkeypatch.setattr(batch_worker, "_LONGEST_PAUSE", 0.02)
    worker = worker_of(store, answering, clock)
    worker.start()
    yield batches_of(store, clock)
    await worker.close()


def names(number: int) -> list[str]:
    return [f"n{each}" for each in range(number)]


async def test_every_request_is_answered_once_and_not_too_many_at_a_time(
    batches: Batches, answering: Answering
) -> None:
    batch = await batches.create(texts(asking(*names(600))), spoken(task="nightly"))
    batch = await ended(batches, batch)
    assert sorted(answering.asked) == sorted(names(600))
    assert answering.most_active == 4
    assert counts(batch) == (600, 0, 0, 0)
    told = await results(batches, batch)
    assert told == {name: {"type": "succeeded", "message": {"said": name}} for name in names(600)}
    heard = answering.heard[0]
    assert (heard.version, heard.betas) == ("2026-10-21", {"context-1m-2025-08-07"})
    assert (heard.caller, heard.task) == (ANN, "nightly")
    assert len({each.request_id for each in answering.heard}) == 600


async def test_a_short_batch_does_not_wait_for_the_end_of_a_long_one(
    batches: Batches, answering: Answering
) -> None:
    async def wait(ask: str) -> None:
        await asyncio.sleep(0.005)

    answering.wait = wait
    long = await batches.create(texts(asking(*names(200))), spoken())
    short = await batches.create(texts(asking("a", "b")), spoken(BOB))
    await ended(batches, short, BOB)
    assert (await batches.get(long.id, ANN)).status == "in_progress"
    await ended(batches, long)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("max_tokens: Field required"),
        BudgetSpent("The budget of the day is used up"),
        TimedOut("The answer took longer than 1 seconds"),
    ],
)
async def test_what_is_wrong_with_a_request_is_its_result(
    batches: Batches, answering: Answering, error: ApiError
) -> None:
    answering.troubles["b"] = [error]
    batch = await ended(batches, await batches.create(texts(asking("a", "b")), spoken()))
    assert counts(batch) == (1, 1, 0, 0)
    told = (await results(batches, batch))["b"]
    assert told["error"]["error"]["type"] == error.type
    assert told["error"]["error"]["message"] == error.message


@pytest.mark.parametrize(
    "error",
    [
        NotReady("The engine starts again", retry_after=0),
        Overloaded("Overloaded"),
        RateLimited("This key has sent too many requests", retry_after=0),
        OSError("the disk is full"),
    ],
)
async def test_what_passes_is_waited_for(
    batches: Batches, answering: Answering, error: Exception
) -> None:
    answering.troubles["a"] = [error] * 5
    batch = await ended(batches, await batches.create(texts(asking("a", "b")), spoken()))
    assert counts(batch) == (2, 0, 0, 0)
    assert answering.asked.count("a") == 6


async def test_one_key_over_its_limit_does_not_hold_up_another(
    batches: Batches, answering: Answering
) -> None:
    answering.troubles["a"] = [RateLimited("too many", retry_after=1000)]
    waits = await batches.create(texts(asking("a", "b")), spoken())
    await until(lambda: "a" in answering.asked)
    await ended(batches, await batches.create(texts(asking("c")), spoken(BOB)), BOB)
    assert (await batches.get(waits.id, ANN)).status == "in_progress"


@pytest.mark.parametrize("error", [EngineFailed("The engine failed"), ValueError("a bug of ours")])
async def test_a_request_that_breaks_is_tried_again_but_not_for_ever(
    batches: Batches, answering: Answering, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    answering.troubles |= {"a": [error] * 2, "b": [error] * 3}
    batch = await ended(batches, await batches.create(texts(asking("a", "b")), spoken()))
    assert counts(batch) == (1, 1, 0, 0)
    told = (await results(batches, batch))["b"]["error"]["error"]
    assert told["type"] == "api_error"
    assert "a bug of ours" not in told["message"]


async def test_canceling_finishes_what_is_begun_and_begins_nothing_more(
    batches: Batches, answering: Answering
) -> None:
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        await go_on.wait()

    answering.wait = wait
    batch = await batches.create(texts(asking(*names(50))), spoken())
    await until(lambda: answering.active == 4)
    batch = await batches.cancel(batch.id, ANN)
    assert batch.status == "canceling"
    assert batch.cancel_initiated_at is not None
    await asyncio.sleep(0.1)
    assert (await batches.get(batch.id, ANN)).status == "canceling"
    go_on.set()
    batch = await ended(batches, batch)
    assert counts(batch) == (4, 0, 46, 0)
    assert len(answering.asked) == 4
    told = await results(batches, batch)
    assert told["n49"] == {"type": "canceled"}
    assert await batches.cancel(batch.id, ANN) == batch, "one that has ended stays as it is"


async def test_what_is_not_begun_after_a_day_expires(
    batches: Batches, answering: Answering, clock: Clock
) -> None:
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        await go_on.wait()

    answering.wait = wait
    batch = await batches.create(texts(asking(*names(10))), spoken())
    await until(lambda: answering.active == 4)
    clock.now += 24 * HOUR
    go_on.set()
    batch = await ended(batches, batch)
    assert counts(batch) == (4, 0, 0, 6)
    assert (await results(batches, batch))["n9"] == {"type": "expired"}


async def test_a_server_that_stops_leaves_its_batches_to_the_next(
    store: Store, clock: Clock
) -> None:
    first, second = Answering(store), Answering(store)
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        if ask != "n0":
            await go_on.wait()

    first.wait = wait
    worker = worker_of(store, first, clock)
    worker.start()
    batches = batches_of(store, clock)
    batch = await batches.create(texts(asking(*names(20))), spoken())
    await until(lambda: len(first.asked) == 5)
    await worker.close()
    assert first.active == 0
    other = worker_of(store, second, clock, server="server_2", living=frozenset({"server_1"}))
    other.start()
    batch = await ended(batches, batch)
    await other.close()
    assert counts(batch) == (20, 0, 0, 0)
    assert sorted(second.asked) == sorted(set(names(20)) - {"n0"})
    assert len(await results(batches, batch)) == 20


@pytest.mark.parametrize("lives", [True, False])
async def test_a_killed_servers_batches_are_taken_up_and_a_living_ones_are_not(
    store: Store, clock: Clock, lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_worker, "_LOOK", 0.02)
    batches = batches_of(store, clock, server="server_1")
    batch = await batches.create(texts(asking("a", "b")), spoken())
    answering = Answering(store)
    living = frozenset({"server_1"} if lives else ())
    worker = worker_of(store, answering, clock, server="server_2", living=living)
    worker.start()
    if lives:
        await asyncio.sleep(0.2)
        assert not answering.asked
    else:
        assert counts(await ended(batches, batch)) == (2, 0, 0, 0)
    await worker.close()


async def test_a_result_that_comes_after_another_server_took_over_is_not_kept(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_worker, "_LOOK", 0.02)
    slow, quick = Answering(store), Answering(store)
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        await go_on.wait()

    slow.wait = wait
    first = worker_of(store, slow, clock)
    first.start()
    batches = batches_of(store, clock)
    batch = await batches.create(texts(asking(*names(3))), spoken())
    await until(lambda: slow.active == 3)
    # It is taken for dead, while it only slept.
    second = worker_of(store, quick, clock, server="server_2")
    second.start()
    batch = await ended(batches, batch)
    go_on.set()
    await until(lambda: slow.active == 0)
    await first.close()
    await second.close()
    assert counts(await batches.get(batch.id, ANN)) == (3, 0, 0, 0)
    assert len(await results(batches, batch)) == 3


async def test_two_servers_work_on_one_database_and_each_on_its_own_batches(
    address: str, clock: Clock
) -> None:
    both = frozenset({"server_1", "server_2"})
    stores = [await open_store(address) for _ in both]
    answers = [Answering(store) for store in stores]
    of_servers = []
    workers = []
    for number, (store, answer) in enumerate(zip(stores, answers, strict=True), 1):
        server = f"server_{number}"
        workers.append(worker_of(store, answer, clock, server=server, living=both))
        of_servers.append(batches_of(store, clock, server=server))
        workers[-1].start()
    made = [await each.create(texts(asking(*names(100))), spoken()) for each in of_servers]
    # Any server tells of them all, and cancels another's too.
    done = [await ended(of_servers[0], batch) for batch in made]
    assert [counts(batch) for batch in done] == [(100, 0, 0, 0)] * 2
    assert [sorted(each.asked) for each in answers] == [sorted(names(100))] * 2
    for worker, store in zip(workers, stores, strict=True):
        await worker.close()
        await store.close()


async def test_a_batch_of_a_key_that_is_gone_waits_until_it_is_back(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_worker, "_LOOK", 0.02)
    known = {key: caller for key, caller in CALLERS.items() if caller is not ANN}
    answering = Answering(store)
    worker = worker_of(store, answering, clock, callers=known)
    worker.start()
    batches = batches_of(store, clock)
    batch = await batches.create(texts(asking("a")), spoken())
    await asyncio.sleep(0.2)
    assert not answering.asked
    known[ANN.key_id] = ANN
    assert counts(await ended(batches, batch)) == (1, 0, 0, 0)
    await worker.close()


async def test_a_batch_that_is_deleted_under_our_hands_stops_nothing_else(
    store: Store, batches: Batches, answering: Answering
) -> None:
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        if ask.startswith("n"):
            await go_on.wait()

    answering.wait = wait
    gone = await batches.create(texts(asking(*names(9))), spoken())
    await until(lambda: answering.active == 4)

    async def work(connection):  # type: ignore[no-untyped-def]
        await connection.execute(
            update(batches_table).where(batches_table.c.id == gone.id).values(status="deleted")
        )

    await store.write(work)
    go_on.set()
    batch = await batches.create(texts(asking("a")), spoken())
    assert counts(await ended(batches, batch)) == (1, 0, 0, 0)
    await until(lambda: answering.active == 0)
    assert len(answering.asked) <= 9


async def test_a_long_batch_is_given_up_in_steps(
    batches: Batches, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.server.tenancy.batch_rows._STEP", 7)
    go_on = asyncio.Event()

    async def wait(ask: str) -> None:
        await go_on.wait()

    answering.wait = wait
    batch = await batches.create(texts(asking(*names(40))), spoken())
    await until(lambda: answering.active == 4)
    await batches.cancel(batch.id, ANN)
    go_on.set()
    assert counts(await ended(batches, batch)) == (4, 0, 36, 0)
    await batches.delete(batch.id, ANN)
