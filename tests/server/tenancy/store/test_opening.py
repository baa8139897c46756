"""The store keeps what it said it keeps, on both databases, and says why it cannot."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.tenancy.store.opening import Store, StoreError, open_store
from senryu.server.tenancy.store.tables import metadata, workspaces


def adding(name: str, number: int = 0):  # type: ignore[no-untyped-def]
    async def work(connection: AsyncConnection) -> int:
        row = {"id": name, "name": name, "limits": {}, "created_at": 1}
        await connection.execute(insert(workspaces).values(row))
        return number

    return work


async def names(store: Store) -> set[str]:
    async with store.reading() as connection:
        return set((await connection.execute(select(workspaces.c.name))).scalars())


async def test_the_migrations_make_the_tables_that_the_code_means(store: Store) -> None:
    async with store.reading() as connection:
        differences = await connection.run_sync(
            lambda plain: compare_metadata(MigrationContext.configure(plain), metadata)
        )
    assert differences == []


async def test_what_was_written_is_there_when_it_is_opened_again(address: str) -> None:
    store = await open_store(address)
    assert await store.write(adding("a", 7)) == 7
    await store.close()
    again = await open_store(address)
    assert await names(again) == {"a"}
    assert await again.faults() == []
    await again.close()


async def test_many_writers_at_once_are_all_told_their_own_result(store: Store) -> None:
    given = await asyncio.gather(*(store.write(adding(f"w{n}", n)) for n in range(700)))
    assert given == list(range(700))
    async with store.reading() as connection:
        assert (await connection.execute(select(func.count(workspaces.c.id)))).scalar() == 700


async def test_one_that_fails_takes_no_other_with_it(store: Store) -> None:
    await store.write(adding("taken"))
    told = await asyncio.gather(
        *(store.write(adding(name)) for name in ("b", "taken", "c")), return_exceptions=True
    )
    assert isinstance(told[1], IntegrityError)
    assert [each for each in told if isinstance(each, Exception)] == [told[1]]
    assert await names(store) == {"taken", "b", "c"}


async def test_rows_that_are_alike_are_written_at_once_beside_other_work(store: Store) -> None:
    """Or a busy event loop is waited for hundreds of times, and the ledger falls behind."""
    sizes = []

    async def add_all(connection: AsyncConnection, rows: Sequence[str]) -> list[str]:
        sizes.append(len(rows))
        told = [{"id": name, "name": name, "limits": {}, "created_at": 1} for name in rows]
        await connection.execute(insert(workspaces), told)
        return [f"wrote {name}" for name in rows]

    alike = [store.write_among(add_all, f"r{n}") for n in range(100)]
    told = await asyncio.gather(*alike, store.write(adding("other", 5)))
    assert told == [*(f"wrote r{n}" for n in range(100)), 5]
    assert sizes == [100]
    again = [store.write_among(add_all, name) for name in ("s1", "r1", "s2")]
    failed = await asyncio.gather(*again, return_exceptions=True)
    assert isinstance(failed[1], IntegrityError)
    assert [failed[0], failed[2]] == ["wrote s1", "wrote s2"]
    assert await names(store) >= {"s1", "s2", "other", "r99"}


async def test_a_writer_that_stops_waiting_has_written(store: Store) -> None:
    waiting = asyncio.ensure_future(store.write(adding("left")))
    await asyncio.sleep(0)
    waiting.cancel()
    await store.write(adding("stayed"))
    assert await names(store) == {"left", "stayed"}


async def test_servers_that_start_at_once_on_a_new_database_all_open_it(address: str) -> None:
    stores = await asyncio.gather(*(open_store(address) for _ in range(4)))
    await asyncio.gather(*(store.write(adding(f"s{n}")) for n, store in enumerate(stores)))
    assert await names(stores[0]) == {"s0", "s1", "s2", "s3"}
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mysql://somewhere/x", "mysql is not known"),
        ("postgresql://nobody:secret@127.0.0.1:9/none", "127.0.0.1:9/none cannot be used"),
        ("/proc/senryu.db", "/proc/senryu.db cannot be used"),
    ],
)
async def test_an_address_that_does_not_work_is_said_in_one_sentence(wrong: str, said: str) -> None:
    with pytest.raises(StoreError) as refused:
        await open_store(wrong)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_bytes(b"not a database, and somebody's own" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        await open_store(str(file))
    assert file.read_bytes() == b"not a database, and somebody's own" * 100


async def test_a_database_of_a_later_senryu_is_not_touched(address: str) -> None:
    store = await open_store(address)
    async with store.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await store.close()
    with pytest.raises(StoreError, match="later senryu"):
        await open_store(address)
