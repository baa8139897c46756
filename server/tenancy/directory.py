"""Keeps what a running server knows of keys at what the store has: `senryu keys` changes the store,
and every server that uses it follows within a second.

It asks for one number, and reads keys only when that has changed. An end in time needs no asking:
`Callers` minds the clock itself. While the database cannot be read, those known stay known.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from sqlalchemy import RowMapping, select

from .callers import Caller, Callers
from .limits import NO_LIMITS, Limits
from .store.opening import Store
from .store.tables import changes, keys, workspaces

log = logging.getLogger("senryu.server")

_PATIENCE = 10.0
"""Seconds that the database may take to answer, before we say that it does not."""

_NUMBER = select(changes.c.number).where(changes.c.name == "keys")
_ALL = select(keys, workspaces.c.limits.label("workspace_limits")).join(
    workspaces, keys.c.workspace_id == workspaces.c.id, isouter=True
)


class Directory:
    """Tells `callers` of the keys in `store`."""

    def __init__(self, store: Store, callers: Callers) -> None:
        self._store = store
        self._callers = callers
        self._number = -1

    async def read(self) -> None:
        """What has changed since the last time."""
        async with self._store.reading() as connection:
            number = (await connection.execute(_NUMBER)).scalar_one()
            if number == self._number:
                return
            rows = (await connection.execute(_ALL)).mappings().all()
        self._callers.learn(dict(self._known(rows)), keyless=not rows)
        self._number = number

    async def follow(self, every: float = 1.0) -> None:
        """Read again and again, until it is cancelled."""
        answers = True
        while True:
            await asyncio.sleep(every)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.read()
            except Exception as error:  # of the database, its driver or the network: it may pass
                if answers:
                    why = type(error).__name__  # its text may hold what is in the database
                    log.warning("The keys cannot be read (%s); those known stay as they are", why)
                answers = False
            else:
                if not answers:
                    log.warning("The keys can be read again")
                answers = True

    def _known(self, rows: Iterable[RowMapping]) -> Iterator[tuple[bytes, Caller]]:
        for row in rows:
            if row["disabled"] or row["revoked_at"] is not None:
                continue
            if row["old_digest"] is not None:
                yield bytes.fromhex(row["old_digest"]), self._caller(row, row["old_expires_at"])
            yield bytes.fromhex(row["digest"]), self._caller(row)

    def _caller(self, row: RowMapping, *also: int) -> Caller:
        ends = [*also, *([] if row["expires_at"] is None else [row["expires_at"]])]
        own = Limits(**row["limits"])
        shared = Limits(**row["workspace_limits"]) if row["workspace_id"] else NO_LIMITS
        return Caller(
            name=row["name"],
            salt=self._callers.salt(workspace_id=row["workspace_id"], key_id=row["id"]),
            role=row["role"],
            key_id=row["id"],
            workspace_id=row["workspace_id"],
            limits=own or self._callers.default_limits,
            workspace_limits=shared,
            until=min(ends, default=float("inf")),
        )
