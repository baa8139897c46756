"""Batches as their owners deal with them: made, shown, canceled, deleted, their results read.

All that there is of a batch is in the store: whatever ends this process, the next one goes on. One
that is still being made is seen by nobody. Whose batches they are: a workspace's, or a key's where
it has none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.answering import Spoken
from senryu.server.identifiers import new_id
from senryu.server.settings import ServerSettings
from senryu.server.wire.batches import Batch, Item, errored, read_items, result_line
from senryu.server.wire.errors import InvalidRequest, NotFound
from senryu.server.wire.long_json import Read

from .batch_rows import clear, remove
from .callers import Caller
from .presence import now_ms
from .store.opening import Store
from .store.tables import batch_items, batches

SHOWN = ("in_progress", "canceling", "ended")

# Rows that are written in one transaction, and how much text of theirs: others wait for its end.
_ROWS = 500
_TEXT = 1 << 20
# Batches that are read at one time, each in a thread and with its longest request in memory.
_READERS = 4
_RESULTS = 100


class Batches:
    """The stored batches. For one event loop."""

    def __init__(
        self,
        store: Store,
        settings: ServerSettings,
        *,
        server_id: str,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`changed` is called when there is something to do for the worker."""
        self._store, self._server, self._changed, self._clock = store, server_id, changed, clock
        self._hours, self._days = settings.batch_hours, settings.batch_days
        self._most_bytes = settings.body_limit_bytes
        self._readers = asyncio.Semaphore(_READERS)
        self._removing: set[asyncio.Task[None]] = set()

    async def create(self, read: Read, spoken: Spoken) -> Batch:
        """A batch of the requests in the text that `read` gives, piece by piece, in a thread.
        Raises InvalidRequest and RequestTooLarge; of such a batch nothing stays."""
        batch_id = new_id("msgbatch")
        row = {
            "id": batch_id,
            "key_id": spoken.caller.key_id,
            "workspace_id": spoken.caller.workspace_id,
            "version": spoken.version,
            "betas": sorted(spoken.betas),
            "task": spoken.task,
            "server": self._server,
            "status": "creating",
            "created_at": self._clock(),
            "expires_at": self._clock(),
            "requests": 0,
        }
        try:
            async with self._readers:
                await self._store.write(_doing(insert(batches).values(row)))
                number = await self._take_in(batch_id, read)
            now = self._clock()
            whole = {
                "status": "in_progress",
                "requests": number,
                "created_at": now,
                "expires_at": now + round(self._hours * 3_600_000),
            }
            await self._store.write(
                _doing(update(batches).where(batches.c.id == batch_id).values(whole))
            )
        except BaseException:
            # What a killed server leaves of it is found by the next one.
            task = asyncio.create_task(remove(self._store, batch_id))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)
            raise
        self._changed()
        return await self.get(batch_id, spoken.caller)

    async def _take_in(self, batch_id: str, read: Read) -> int:
        items, total = read_items(read, most_bytes=self._most_bytes), 0
        while part := await asyncio.to_thread(_part, items):
            await self._all_new(batch_id, part)
            rows = [_item_row(batch_id, item) for item in part]
            await self._store.write(_doing(insert(batch_items), rows))
            total += len(part)
        return total

    async def _all_new(self, batch_id: str, part: list[Item]) -> None:
        """No name is there twice: neither among these nor with those before."""
        numbers: dict[str, int] = {}
        for item in part:
            if item.custom_id in numbers:
                raise _twice(item.number, item.custom_id)
            numbers[item.custom_id] = item.number
        if part[0].number == 0:
            return
        mine = batch_items.c.batch_id == batch_id
        before = select(batch_items.c.custom_id).where(
            mine, batch_items.c.custom_id.in_(list(numbers))
        )
        async with self._store.reading() as connection:
            again = (await connection.execute(before)).scalars().all()
        if again:
            first = min(again, key=numbers.__getitem__)
            raise _twice(numbers[first], first)

    async def get(self, batch_id: str, caller: Caller) -> Batch:
        """Raises NotFound, for those of others too."""
        query = _shown(caller).where(batches.c.id == batch_id)
        async with self._store.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise NotFound(f"There is no batch {batch_id}")
        return _batch(row)

    async def page(
        self, caller: Caller, *, limit: int, after: str | None = None, before: str | None = None
    ) -> tuple[list[Batch], bool]:
        """The newest `limit` first, of those after or before that one in the list; and whether
        there are more in that direction."""
        table, query = batches.c, _shown(caller)
        order = (table.created_at.desc(), table.id.desc())
        async with self._store.reading() as connection:
            if edge_id := after or before:
                # One that was deleted meanwhile is a place in the list all the same.
                edge = select(table.created_at).where(table.id == edge_id, _owned(caller))
                at: int | None = (await connection.execute(edge)).scalar()
                if at is None:
                    name = "after_id" if after else "before_id"
                    raise InvalidRequest(f"{name}: There is no batch {edge_id}")
                if after:
                    same = and_(table.created_at == at, table.id < edge_id)
                    query = query.where(or_(table.created_at < at, same))
                else:
                    same = and_(table.created_at == at, table.id > edge_id)
                    query = query.where(or_(table.created_at > at, same))
                    order = (table.created_at.asc(), table.id.asc())
            rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).all()
        found = [_batch(row) for row in rows[:limit]]
        return found[::-1] if before else found, len(rows) > limit

    async def cancel(self, batch_id: str, caller: Caller) -> Batch:
        """From now on no further request of it is begun. One that has ended stays as it is."""
        await self._store.write(
            _doing(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.status == "in_progress", _owned(caller))
                .values(status="canceling", cancel_initiated_at=self._clock())
            )
        )
        batch = await self.get(batch_id, caller)
        self._changed()
        return batch

    async def delete(self, batch_id: str, caller: Caller) -> None:
        """Raises InvalidRequest where it has not ended."""
        batch = await self.get(batch_id, caller)
        if batch.status != "ended":
            raise InvalidRequest(
                f"The batch {batch_id} has not ended: cancel it, and delete it once it has"
            )
        # Its row stays for a while, for those who page through the list.
        gone = update(batches).where(batches.c.id == batch_id, batches.c.status == "ended")
        await self._store.write(_doing(gone.values(status="deleted")))
        await clear(self._store, batch_id)

    async def results(self, batch_id: str, caller: Caller) -> AsyncIterator[bytes]:
        """The lines of its results, some at a time. Raises NotFound before the first."""
        batch = await self.get(batch_id, caller)
        if batch.status != "ended":
            raise NotFound(
                f"The batch {batch_id} has no results yet: ask again when its processing_status "
                "is ended"
            )
        if batch.archived_at is not None:
            raise NotFound(
                f"The results of the batch {batch_id} are gone: they are kept for "
                f"{self._days:g} days"
            )
        return self._lines(batch)

    async def _lines(self, batch: Batch) -> AsyncIterator[bytes]:
        table, last, told = batch_items.c, -1, 0
        query = select(table.number, table.custom_id, table.state, table.result)
        query = query.where(table.batch_id == batch.id).order_by(table.number).limit(_RESULTS)
        while told < batch.requests:
            async with self._store.reading() as connection:
                rows = (await connection.execute(query.where(table.number > last))).all()
            if not rows:  # an end here would look like the end of all
                raise RuntimeError(f"the batch {batch.id} was deleted while it was read")
            last, told = rows[-1].number, told + len(rows)
            yield b"".join(result_line(row.custom_id, row.state, row.result) for row in rows)

    async def close(self) -> None:
        """Waits for what is being removed."""
        if self._removing:
            await asyncio.wait(self._removing)


def _doing(
    statement: Any, rows: list[dict[str, Any]] | None = None
) -> Callable[[AsyncConnection], Any]:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(statement, rows)

    return work


def _part(items: Iterator[Item]) -> list[Item]:
    """As many of those that come next as are written together."""
    part, length = [], 0
    for item in items:
        part.append(item)
        length += len(item.params)
        if len(part) == _ROWS or length >= _TEXT:
            break
    return part


def _item_row(batch_id: str, item: Item) -> dict[str, Any]:
    refusal = item.refusal
    return {
        "batch_id": batch_id,
        "number": item.number,
        "custom_id": item.custom_id,
        "params": None if refusal else item.params,
        "state": "errored" if refusal else "pending",
        "result": errored(refusal, new_id("req")) if refusal else None,
    }


def _twice(number: int, custom_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"requests.{number}.custom_id: {custom_id!r} is there twice; give each request its own"
    )


def _owned(caller: Caller) -> ColumnElement[bool]:
    if caller.workspace_id is not None:
        return batches.c.workspace_id == caller.workspace_id
    return and_(batches.c.workspace_id.is_(None), batches.c.key_id == caller.key_id)


_COLUMNS = tuple(batches.c[name] for name in Batch.__slots__)


def _shown(caller: Caller) -> Select[Any]:
    return select(*_COLUMNS).where(_owned(caller), batches.c.status.in_(SHOWN))


def _batch(row: Row[Any]) -> Batch:
    return Batch(**row._mapping)
