"""A batch is stored whole or not at all, is seen by its owners alone, and can be paged through."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batching import (
    ANN,
    BOB,
    CY,
    DI,
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
    worker_of,
)
from sqlalchemy import func, select

from senryu.server.tenancy.batch_rows import tidy
from senryu.server.tenancy.batches import Batches
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.store import tables
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.wire.batches import Batch
from senryu.server.wire.errors import InvalidRequest, NotFound


async def rows(store: Store) -> tuple[int, int]:
    async with store.reading() as connection:
        found = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (tables.batches, tables.batch_items)
        ]
    return found[0], found[1]


async def done(store: Store, batches: Batches, clock: Clock, batch: Batch) -> Batch:
    worker = worker_of(store, Answering(store), clock)
    worker.start()
    batch = await ended(batches, batch)
    await worker.close()
    return batch


async def test_a_new_batch_is_in_progress_and_ends_after_a_day(store: Store) -> None:
    clock = Clock()
    batch = await batches_of(store, clock).create(texts(asking("a", "b")), spoken())
    assert batch.id.startswith("msgbatch_")
    assert (batch.status, batch.requests, counts(batch)) == ("in_progress", 2, (0, 0, 0, 0))
    assert (batch.created_at, batch.expires_at) == (clock.now, clock.now + 24 * HOUR)


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([], "requests: List should have at least 1 item after validation, not 0"),
        ([7], "requests.0: Input should be a valid dictionary"),
        ([{"params": {}}], "requests.0.custom_id: Field required"),
        ([{"custom_id": "a"}], "requests.0.params: Field required"),
        ([{"custom_id": 1, "params": {}}], "requests.0.custom_id: Input should be a valid string"),
        (
            [{"custom_id": "a b", "params": {}}],
            "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'",
        ),
        (
            [*asking("a"), {"custom_id": "b\n", "params": {}}],
            "requests.1.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'",
        ),
        (
            [{"custom_id": "a", "params": []}],
            "requests.0.params: Input should be a valid dictionary",
        ),
        (
            [{"custom_id": "a", "params": {}, "model": 1}],
            "requests.0.model: Extra inputs are not permitted",
        ),
        (
            asking("a", "b", "a"),
            "requests.2.custom_id: 'a' is there twice; give each request its own",
        ),
        (
            asking(*(f"n{number}" for number in range(1200)), "n7"),
            "requests.1200.custom_id: 'n7' is there twice; give each request its own",
        ),
    ],
)
async def test_a_wrong_list_is_refused_with_its_place_and_leaves_nothing(
    store: Store, requests: list[object], said: str
) -> None:
    batches = batches_of(store, Clock())
    with pytest.raises(InvalidRequest) as refusal:
        await batches.create(texts(requests), spoken())
    assert refusal.value.message == said
    await batches.close()
    assert await rows(store) == (0, 0)


async def test_more_requests_than_a_batch_may_have_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.server.wire.batches.MOST_REQUESTS", 2)
    batches = batches_of(store, Clock())
    await batches.create(texts(asking("a", "b")), spoken())
    with pytest.raises(InvalidRequest, match="at most 2 items"):
        await batches.create(texts(asking("a", "b", "c")), spoken())
    await batches.close()


async def test_the_same_name_may_be_in_two_batches(store: Store) -> None:
    batches = batches_of(store, Clock())
    await batches.create(texts(asking("a")), spoken())
    await batches.create(texts(asking("a")), spoken())
    assert await rows(store) == (2, 2)


async def test_what_a_batch_may_not_ask_is_an_error_of_that_request_alone(store: Store) -> None:
    clock = Clock()
    batches = batches_of(store, clock)
    fast = {"custom_id": "fast", "params": {"ask": "fast", "speed": "standard"}}
    batch = await batches.create(texts([fast, *asking("a")]), spoken())
    batch = await done(store, batches, clock, batch)
    told = await results(batches, batch)
    assert counts(batch) == (1, 1, 0, 0)
    assert told["a"]["type"] == "succeeded"
    error = told["fast"]["error"]
    assert told["fast"]["type"] == "errored"
    assert error["error"] == {
        "type": "invalid_request_error",
        "message": "speed: is not supported in a batch",
    }
    assert error["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("owner", "other", "seen"),
    [(ANN, ANN, True), (ANN, BOB, False), (CY, DI, True), (CY, ANN, False), (ANN, CY, False)],
)
async def test_a_batch_is_its_keys_or_its_workspaces(
    store: Store, owner: Caller, other: Caller, seen: bool
) -> None:
    batches = batches_of(store, Clock())
    batch = await batches.create(texts(asking("a")), spoken(owner))
    listed, _ = await batches.page(other, limit=10)
    assert [each.id for each in listed] == ([batch.id] if seen else [])
    if seen:
        assert (await batches.get(batch.id, other)).id == batch.id
        return
    for call in (batches.get, batches.cancel, batches.delete, batches.results):
        with pytest.raises(NotFound, match=f"There is no batch {batch.id}"):
            await call(batch.id, other)
    assert (await batches.get(batch.id, owner)).status == "in_progress"


async def test_the_list_goes_from_the_newest_back_and_forth(store: Store) -> None:
    clock = Clock()
    batches = batches_of(store, clock)
    made = []
    for number in range(7):
        clock.now += number // 2  # two at a time are of the same millisecond
        made.append(await batches.create(texts(asking("a")), spoken()))
    whole = [batch.id for batch in sorted(made, key=lambda b: (b.created_at, b.id), reverse=True)]

    async def page(**where: str) -> tuple[list[str], bool]:
        found, more = await batches.page(ANN, limit=3, **where)  # type: ignore[arg-type]
        return [batch.id for batch in found], more

    assert await page() == (whole[:3], True)
    assert await page(after=whole[2]) == (whole[3:6], True)
    assert await page(after=whole[5]) == (whole[6:], False)
    assert await page(before=whole[6]) == (whole[3:6], True)
    assert await page(before=whole[3]) == (whole[:3], False)
    with pytest.raises(InvalidRequest, match="after_id: There is no batch msgbatch_9"):
        await page(after="msgbatch_9")


async def test_one_that_was_deleted_is_gone_but_paging_goes_on_from_it(store: Store) -> None:
    clock = Clock()
    batches = batches_of(store, clock)
    older = await batches.create(texts(asking("a")), spoken())
    clock.now += 1
    newer = await batches.create(texts(asking("a")), spoken())
    with pytest.raises(InvalidRequest, match="has not ended: cancel it"):
        await batches.delete(newer.id, ANN)
    await done(store, batches, clock, newer)
    await ended(batches, older)
    await batches.delete(newer.id, ANN)
    with pytest.raises(NotFound):
        await batches.get(newer.id, ANN)
    assert [each.id for each in (await batches.page(ANN, limit=5))[0]] == [older.id]
    assert [each.id for each in (await batches.page(ANN, limit=5, after=newer.id))[0]] == [older.id]
    assert await rows(store) == (2, 1)
    await tidy(store, set(), clock.now + 59 * 24 * HOUR, 29)
    assert await rows(store) == (0, 0)


async def test_results_are_there_once_it_has_ended_until_they_are_too_old(store: Store) -> None:
    clock = Clock()
    batches = batches_of(store, clock, batch_days=2.0)
    batch = await batches.create(texts(asking("a")), spoken())
    with pytest.raises(NotFound, match="has no results yet"):
        await batches.results(batch.id, ANN)
    await done(store, batches, clock, batch)
    assert await results(batches, batch) == {"a": {"type": "succeeded", "message": {"said": "a"}}}
    clock.now += 47 * HOUR
    await tidy(store, set(), clock.now, 2.0)
    assert len(await results(batches, batch)) == 1
    clock.now += 2 * HOUR
    await tidy(store, set(), clock.now, 2.0)
    with pytest.raises(NotFound, match="are gone: they are kept for 2 days"):
        await batches.results(batch.id, ANN)
    assert (await batches.get(batch.id, ANN)).archived_at == clock.now
    assert await rows(store) == (1, 0)
    await tidy(store, set(), clock.now + 48 * HOUR, 2.0)
    assert await rows(store) == (0, 0)


async def test_results_that_go_while_they_are_read_do_not_end_as_if_that_were_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senryu.server.tenancy.batches._RESULTS", 1)
    clock = Clock()
    batches = batches_of(store, clock)
    batch = await batches.create(texts(asking("a", "b")), spoken())
    await done(store, batches, clock, batch)
    lines = await batches.results(batch.id, ANN)
    await anext(lines)
    await batches.delete(batch.id, ANN)
    with pytest.raises(RuntimeError, match="was deleted while it was read"):
        await anext(lines)


class Killed(Exception):
    pass


async def test_what_a_killed_server_had_not_finished_making_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the disk part by part, and nobody sees it before the last."""

    async def does_nothing(store: Store, batch_id: str) -> None:
        pass

    def pieces() -> Iterator[bytes]:
        yield b'{"requests":['
        for number in range(600):
            yield f'{{"custom_id":"n{number}","params":{{}}}},'.encode()
        raise Killed

    monkeypatch.setattr("senryu.server.tenancy.batches.remove", does_nothing)
    batches, parts = batches_of(store, Clock()), pieces()
    with pytest.raises(Killed):
        await batches.create(lambda size: next(parts), spoken())
    assert await rows(store) == (1, 500)
    assert await batches.page(ANN, limit=5) == ([], False)
    await tidy(store, {"server_1"}, Clock().now, 29)
    assert await rows(store) == (1, 500), "a server that lives still makes it"
    await tidy(store, {"server_2"}, Clock().now, 29)
    assert await rows(store) == (0, 0)


def many(number: int) -> Callable[[int], bytes]:
    """The body of that many requests, made while it is read."""

    def pieces() -> Iterator[bytes]:
        yield b'{"requests":['
        for n in range(number):
            params = (
                f'{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"{n}"}}]}}'
            )
            comma = "," if n else ""
            yield f'{comma}{{"custom_id":"request-{n}","params":{params}}}'.encode()
        yield b"]}"

    parts, held = pieces(), bytearray()

    def read(size: int) -> bytes:
        while len(held) < size and (part := next(parts, None)) is not None:
            held.extend(part)
        piece = bytes(held[:size])
        del held[:size]
        return piece

    return read


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_hundred_thousand_requests_take_no_more_memory_than_a_tenth_of_them(
    tmp_path: Path,
) -> None:
    """Held as objects they would take a hundred megabytes."""
    store = await open_store(str(tmp_path / "senryu.db"))
    batches = batches_of(store, Clock())

    async def most_memory(number: int) -> int:
        read, seen = many(number), [resident()]

        def watched(size: int) -> bytes:
            seen.append(resident())
            return read(size)

        batch = await batches.create(watched, spoken())
        assert batch.requests == number
        return max(seen)

    await most_memory(1_000)  # what is loaded and compiled once
    tenth = await most_memory(10_000)
    assert await most_memory(100_000) - tenth < 8 * 2**20
    await store.close()
