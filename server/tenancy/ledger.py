"""The ledger: a row for each request, open from its admission on, and completed once.

A row that is open while its server lives no longer is lost: nobody has seen the end of that answer.
What rows say together is read in `reports`; what limits must know of the past is read here.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, bindparam, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from .account import Ended, Opened
from .limiter import Past, Used
from .store.opening import Store
from .store.tables import ledger

# How far back requests are remembered one by one, for limits per minute: a minute's limit is back
# after a minute, and one that was passed by far after a few.
_RECENT_MS = 600_000
# Requests that ended in this time began in this one.
_LONGEST_MS = 2 * 3_600_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger of one server, in a store that others may share."""

    store: Store
    server_id: str

    async def opened(self, told: Opened) -> None:
        """Write the row of a request that was admitted. To do it again changes nothing."""
        row = {
            "id": told.id,
            "request_id": told.request_id,
            "server": self.server_id,
            "key_id": told.caller.key_id,
            "workspace_id": told.caller.workspace_id,
            "model": told.model,
            "task": told.task,
            "user_hash": told.user_hash,
            "tier": told.tier,
            "state": "open",
            "started_at": told.started_at,
            "input_tokens": told.prompt_tokens,
            "batch_id": told.batch_id,
        }
        await self.store.write_among(_insert, row)

    async def ended(
        self, told: Ended, also: Callable[[AsyncConnection], Awaitable[None]] | None = None
    ) -> bool:
        """Complete the row, and in the same transaction do `also`. False, and neither is done, when
        it is no longer open."""
        usage = told.usage
        completed = {
            "state": told.state,
            "ended_at": told.ended_at,
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_creation_5m_tokens": usage.cache_creation_5m_tokens,
            "cache_creation_1h_tokens": usage.cache_creation_1h_tokens,
            "output_tokens": usage.output_tokens,
            "thinking_tokens": usage.thinking_tokens,
            "stop_reason": told.stop_reason,
            "queued_ms": told.queued_ms,
            "first_token_ms": told.first_token_ms,
            "cost": told.cost,
        }
        if also is None:
            return await self.store.write_among(_complete, {**completed, "open_id": told.opened.id})
        mine = (ledger.c.id == told.opened.id) & (ledger.c.state == "open")

        async def work(connection: AsyncConnection) -> bool:
            done = await connection.execute(update(ledger).where(mine).values(completed))
            if done.rowcount:
                await also(connection)
            return bool(done.rowcount)

        return await self.store.write(work)

    async def lose(self, living: Collection[str]) -> int:
        """Rows that servers left open which live no longer: how many they are. Such a row keeps the
        length of its prompt, costs nothing, and stands in no report but as lost."""
        theirs = (ledger.c.state == "open") & ledger.c.server.not_in(living)

        async def work(connection: AsyncConnection) -> int:
            lost = await connection.execute(update(ledger).where(theirs).values(state="lost"))
            return lost.rowcount

        return await self.store.write(work)

    async def past(self, now_ms: int) -> Past:
        """What a limiter that begins now is to remember."""
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        month = int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp() * 1000)
        recent, ended = now_ms - _RECENT_MS, func.coalesce(ledger.c.ended_at, ledger.c.started_at)
        second = ended // 1000
        # Limits per minute do not count batches; budgets count what batches have answered.
        standard = ledger.c.tier != "batch"
        lately = (ledger.c.started_at >= recent - _LONGEST_MS) & (ended >= recent) & standard
        spent = standard | (ledger.c.state == "done")
        today = ledger.c.started_at >= now_ms // _DAY_MS * _DAY_MS
        async with self.store.reading() as connection:
            return Past(
                recent=await _sums(connection, lately, second),
                day=await _sums(connection, today & spent),
                month=await _sums(connection, (ledger.c.started_at >= month) & spent),
            )


async def _insert(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> Sequence[None]:
    on_postgres = connection.dialect.name == "postgresql"
    new = (postgresql.insert if on_postgres else sqlite.insert)(ledger)
    await connection.execute(new.on_conflict_do_nothing(), rows)
    return [None] * len(rows)


async def _complete(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> Sequence[bool]:
    """Completes those that are open; whether each was."""
    names = [row["open_id"] for row in rows]
    asked = select(ledger.c.id).where(ledger.c.id.in_(names), ledger.c.state == "open")
    still_open = set((await connection.execute(asked)).scalars())
    found, chosen = [], []
    for row in rows:
        found.append(row["open_id"] in still_open)
        if found[-1]:
            still_open.remove(row["open_id"])
            chosen.append(row)
    if chosen:
        which = ledger.c.id == bindparam("open_id")
        await connection.execute(update(ledger).where(which), chosen)
    return found


async def _sums(
    connection: AsyncConnection,
    which: ColumnElement[bool],
    second: ColumnElement[int] | None = None,
) -> Sequence[Used]:
    """What each key used in each workspace, in all or by the `second`."""
    columns = (ledger.c.key_id, ledger.c.workspace_id)
    read = (
        cast(ledger.c.input_tokens, BigInteger)
        + ledger.c.cache_creation_5m_tokens
        + ledger.c.cache_creation_1h_tokens
    )
    sums = (
        func.count().label("requests"),
        func.sum(read).label("input_tokens"),
        func.sum(ledger.c.output_tokens).label("output_tokens"),
        func.sum(ledger.c.cost).label("cost"),
    )
    asked = select(*columns, *sums).where(which)
    if second is not None:
        asked = asked.add_columns(second.label("second"))
        asked = asked.group_by(*columns, "second")
    else:
        asked = asked.group_by(*columns)
    return [_used(row) for row in await connection.execute(asked)]


def _used(row: Row[Any]) -> Used:
    return Used(
        key_id=row.key_id,
        workspace_id=row.workspace_id,
        at=getattr(row, "second", -1) + 1.0,  # not before it was: less of it has come back
        requests=row.requests,
        input_tokens=int(row.input_tokens),  # PostgreSQL's sums are decimals
        output_tokens=int(row.output_tokens),
        cost=int(row.cost),
    )
