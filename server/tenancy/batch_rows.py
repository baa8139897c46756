"""What is done to the rows of a batch in steps, each short enough that nobody waits long for it."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .store.opening import Store
from .store.tables import batch_items, batches

ACTIVE = ("in_progress", "canceling")

_STEP = 5_000
_DAY = 86_400_000
# A batch whose results are gone is still shown, until it is as many times as old as they may get.
_FORGOTTEN = 2


async def clear(store: Store, batch_id: str) -> None:
    """Its requests and results go."""

    async def work(connection: AsyncConnection) -> int:
        some = _some(batch_items.c.batch_id == batch_id)
        done = await connection.execute(
            delete(batch_items).where(batch_items.c.batch_id == batch_id, some)
        )
        return done.rowcount

    while await store.write(work):
        pass


async def remove(store: Store, batch_id: str) -> None:
    """All of it goes."""
    await clear(store, batch_id)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(delete(batches).where(batches.c.id == batch_id))

    await store.write(work)


async def end(store: Store, batch_id: str, server: str, now: int) -> bool:
    """Ends a batch of this server's of which nothing is worked on. What nobody has begun is then
    canceled, where its owner wants that, or expired, where it is time. False where some is still to
    be done."""
    mine = (batches.c.id == batch_id, batches.c.server == server, batches.c.status.in_(ACTIVE))
    async with store.reading() as connection:
        query = select(batches.c.status, batches.c.expires_at).where(*mine)
        batch = (await connection.execute(query)).first()
    if batch is None:
        return True  # it is another's by now
    if batch.status == "canceling":
        await _give_up(store, batch_id, server, "canceled")
    elif now >= batch.expires_at:
        await _give_up(store, batch_id, server, "expired")

    async def work(connection: AsyncConnection) -> bool:
        counted = select(batch_items.c.state, func.count()).where(
            batch_items.c.batch_id == batch_id
        )
        rows = (await connection.execute(counted.group_by(batch_items.c.state))).all()
        counts: dict[str, int] = dict(rows)
        if counts.pop("pending", 0):
            return False
        await connection.execute(
            update(batches).where(*mine).values(status="ended", ended_at=now, **counts)
        )
        return True

    return await store.write(work)


async def _give_up(store: Store, batch_id: str, server: str, state: str) -> None:
    pending = (batch_items.c.batch_id == batch_id, batch_items.c.state == "pending")

    async def work(connection: AsyncConnection) -> int:
        done = await connection.execute(
            update(batch_items)
            .where(*pending, _some(*pending), owned(batch_id, server))
            .values(state=state, params=None)
        )
        return done.rowcount

    while await store.write(work):
        pass


def owned(batch_id: str, server: str) -> ColumnElement[bool]:
    """Whether this server is the one that works on it."""
    return exists().where(batches.c.id == batch_id, batches.c.server == server)


async def tidy(store: Store, living: Collection[str], now: int, days: float) -> None:
    """What servers that live no longer had not finished making is removed; results that are old
    enough go, and the batches themselves when they are older still."""
    old, older = now - round(days * _DAY), now - round(_FORGOTTEN * days * _DAY)
    table = batches.c
    unfinished = (table.status == "creating") & table.server.not_in(living)
    away = table.status.in_(("ended", "deleted")) & (table.created_at < older)
    for batch_id in await _those(store, or_(unfinished, away)):
        await remove(store, batch_id)

    async def archive(connection: AsyncConnection) -> None:
        ripe = (table.status == "ended", table.archived_at.is_(None), table.created_at < old)
        await connection.execute(update(batches).where(*ripe).values(archived_at=now))

    await store.write(archive)
    gone = table.archived_at.is_not(None) | (table.status == "deleted")
    for batch_id in await _those(store, gone & exists().where(batch_items.c.batch_id == table.id)):
        await clear(store, batch_id)


async def _those(store: Store, which: ColumnElement[bool]) -> list[str]:
    async with store.reading() as connection:
        return list((await connection.execute(select(batches.c.id).where(which))).scalars())


def _some(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    some: Any = select(batch_items.c.number).where(*which).limit(_STEP)
    return batch_items.c.number.in_(some)
