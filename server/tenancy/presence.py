"""Which servers use this database, so that what a dead one left is taken up by a living one.

Each keeps a row of its own fresh. One on this machine is known to be dead by its process; one
elsewhere by a row that has gone stale.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import time_ns

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.identifiers import new_id

from .store.opening import Store
from .store.tables import servers

BEAT = 5.0
"""Seconds between two signs of life."""
STALE_MS = 30_000


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Presence:
    """This server's row."""

    store: Store
    id: str
    clock: Callable[[], int] = now_ms

    async def beat(self) -> None:
        """Say that we live. A row that others took for dead is written anew."""

        async def work(connection: AsyncConnection) -> None:
            fresh = {"host": socket.gethostname(), "pid": os.getpid(), "seen_at": self.clock()}
            done = await connection.execute(
                update(servers).where(servers.c.id == self.id).values(fresh)
            )
            if not done.rowcount:
                await connection.execute(insert(servers).values(id=self.id, **fresh))

        await self.store.write(work)

    async def living(self) -> frozenset[str]:
        """The ids of those that live, ours among them; the rows of the others are removed."""
        host, now = socket.gethostname(), self.clock()
        async with self.store.reading() as connection:
            rows = (await connection.execute(select(servers))).all()
        dead = [row.id for row in rows if row.id != self.id and _dead(row, host, now)]
        if dead:

            async def work(connection: AsyncConnection) -> None:
                stale = servers.c.seen_at <= now  # one that has just come back stays
                await connection.execute(delete(servers).where(servers.c.id.in_(dead), stale))

            await self.store.write(work)
        return frozenset({row.id for row in rows} - set(dead) | {self.id})

    async def leave(self) -> None:
        """What we have left is anybody's."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(servers).where(servers.c.id == self.id))

        await self.store.write(work)


def new_server_id() -> str:
    return new_id("server")


def _dead(row: object, host: str, now: int) -> bool:
    if now - row.seen_at > STALE_MS:  # type: ignore[attr-defined]
        return True
    pid: int = row.pid  # type: ignore[attr-defined]
    # Our own number in another's row: it was that process's before, as in a container each is 1.
    return row.host == host and (pid == os.getpid() or not _runs(pid))  # type: ignore[attr-defined]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
