"""Whether what a server keeps is sound: the database by its own check, batches by their sums, and
uploaded files by their digests. Nothing is changed."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .backup import KEPT, PIECE
from .contents import content_path
from .store.opening import Store
from .store.tables import batch_items, batches, files

_ENDINGS = ("succeeded", "errored", "canceled", "expired")


@dataclass(slots=True)
class Findings:
    """What was found."""

    rows: dict[str, int] = field(default_factory=dict)
    """How many each table has."""
    faults: list[str] = field(default_factory=list)


async def check(store: Store, folder: Path) -> Findings:
    """Look at everything."""
    found = Findings()
    found.faults += await store.faults()
    async with store.reading() as connection:
        for table in KEPT:
            count = await connection.execute(select(func.count()).select_from(table))
            found.rows[table.name] = count.scalar_one()
        if connection.dialect.name == "sqlite":
            lost = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
            found.faults += [
                f"{row[0]}: row {row[1]} refers to nothing in {row[2]}" for row in lost
            ]
        found.faults += [fault async for fault in _batches(connection)]
        found.faults += [fault async for fault in _files(connection, folder)]
    return found


async def _batches(connection: AsyncConnection) -> AsyncIterator[str]:
    """An ended batch has a result for each of its requests, and says how many of each kind."""
    ended = batches.c.status == "ended"
    there = select(batches).where(ended, batches.c.archived_at.is_(None)).order_by(batches.c.id)
    for batch in (await connection.execute(there)).mappings().all():
        counted = await connection.execute(
            select(batch_items.c.state, func.count())
            .where(batch_items.c.batch_id == batch["id"])
            .group_by(batch_items.c.state)
        )
        has: dict[str, int] = {state: number for state, number in counted}  # noqa: C416  rows
        said = {state: batch[state] for state in _ENDINGS if batch[state]}
        if has != said or sum(has.values()) != batch["requests"]:
            yield (
                f"batch {batch['id']}: of {batch['requests']} requests it tells {said} and has "
                f"{dict(sorted(has.items()))}"
            )


async def _files(connection: AsyncConnection, folder: Path) -> AsyncIterator[str]:
    """Each content is on the disk, as it was sent."""
    query = select(files.c.sha256, func.min(files.c.id)).group_by(files.c.sha256)
    rows = await connection.stream(
        query.order_by(files.c.sha256).execution_options(yield_per=1_000)
    )
    async for sha256, file_id in rows:
        path = content_path(folder, sha256)
        try:
            if _digest(path) != sha256:
                yield f"file {file_id}: {path} is damaged"
        except OSError as error:
            yield f"file {file_id}: {path} cannot be read ({error.strerror})"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
