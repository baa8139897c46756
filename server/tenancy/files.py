"""Uploaded files (contract 1.14): their rows in the store, their contents on disk.

A file is seen by the workspace whose key uploaded it, or by that key alone where it has none; to
all others it is not there. All sizes are counted in full, also of equal contents, so that nobody
learns from the quota what others have.
"""

import asyncio
import errno
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.conversation.media import File, FileMissing, MediaError
from senryu.server.identifiers import new_id
from senryu.server.wire.errors import EngineFailed, InvalidRequest, NotFound

from .callers import Caller
from .contents import Contents, Incoming
from .store.opening import Store
from .store.tables import files

log = logging.getLogger("senryu.server")

Open = Callable[[str, float], File]
"""What finds a caller's file by its id, within so many seconds, from a worker thread."""

_ID = re.compile(r"file_[A-Za-z0-9_]{1,35}")
# An expired file is told apart from one that never was for so long.
_REMEMBERED_MS = 30 * 86_400_000
_TENDED_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """What is known of an uploaded file."""

    id: str
    filename: str
    mime_type: str
    size_bytes: int
    sha256: str
    created_at: int
    expires_at: int | None


Place = tuple[int, str]
"""Where a file stands in a list: when it was created, and its id."""


class Files:
    """All files of this server. For one event loop, the one that `start` is called in."""

    def __init__(
        self, store: Store, folder: Path, *, quota: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self.contents = Contents(folder)
        self._quota = quota
        self._clock = clock
        self._arriving = 0  # bytes of uploads that are not yet files
        self._tending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the folder, and look after it from now on."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.contents.prepare)
        self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait({self._tending})

    @asynccontextmanager
    async def upload(self, caller: Caller) -> AsyncIterator["Upload"]:
        """A file that `caller` begins to send. Nothing is left of it unless it is kept."""
        incoming = await asyncio.to_thread(self.contents.incoming)
        upload = Upload(self, caller, incoming, used=await self.used())
        try:
            yield upload
        finally:
            self._arriving -= upload.counted
            await asyncio.to_thread(incoming.discard)

    async def used(self) -> int:
        """Bytes of all files that have not expired."""
        async with self._store.reading() as connection:
            return await self._used(connection)

    async def get(self, caller: Caller, file_id: str) -> StoredFile:
        """Raises NotFound."""
        if _ID.fullmatch(file_id):
            query = select(files).where(files.c.id == file_id, _seen_by(caller))
            async with self._store.reading() as connection:
                row = (await connection.execute(query)).mappings().one_or_none()
            if row is not None:
                return self._living(_file(row))
        raise NotFound(f"File not found: {file_id}")

    async def several(self, caller: Caller, ids: Sequence[str]) -> list[StoredFile]:
        """Those of `ids` that there are, the newest first."""
        known = [file_id for file_id in ids if _ID.fullmatch(file_id)]
        query = select(files).where(files.c.id.in_(known), *self._shown(caller)).order_by(*_NEWEST)
        return await self._all(query)

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: Place | None = None,
        before: Place | None = None,
    ) -> tuple[list[StoredFile], bool]:
        """So many files, the newest first, and whether there are more: those behind a place in the
        list, or else directly before one."""
        query = select(files).where(*self._shown(caller)).limit(limit + 1)
        if before is not None:
            query = query.where(_newer(before)).order_by(*_OLDEST)
        else:
            query = query.where(*([_older(after)] if after else [])).order_by(*_NEWEST)
        found = await self._all(query)
        page = found[:limit]
        return (page[::-1] if before is not None else page), len(found) > limit

    async def delete(self, caller: Caller, file_id: str) -> None:
        """Raises NotFound."""
        file = await self.get(caller, file_id)

        async def work(connection: AsyncConnection) -> tuple[int, bool]:
            gone = await connection.execute(delete(files).where(files.c.id == file.id))
            same = select(files.c.id).where(files.c.sha256 == file.sha256, *self._unexpired())
            others = (await connection.execute(same.limit(1))).first()
            return gone.rowcount, others is not None

        async with self.contents.alone():
            count, wanted = await self._store.write(work)
            if not wanted:
                await asyncio.to_thread(self.contents.remove, file.sha256)
        if not count:
            raise NotFound(f"File not found: {file_id}")

    def seen_by(self, caller: Caller) -> Open:
        """Opens the files that a message of `caller` names. It waits for the store, so it is never
        to be called on the event loop."""

        def open_file(file_id: str, seconds: float) -> File:
            asked = asyncio.run_coroutine_threadsafe(self.get(caller, file_id), self._loop)
            try:
                found = asked.result(seconds)
            except NotFound as error:
                raise FileMissing(error.message, details=error.details) from None
            except TimeoutError:
                asked.cancel()
                raise MediaError(f"it took longer than {seconds:.0f} seconds to find") from None

            def read() -> bytes:
                try:
                    return self.contents.read(found.sha256)
                except FileNotFoundError:
                    log.error("the contents of %s are not in %s", file_id, self.contents.folder)
                    raise FileMissing(
                        f"File not found: {file_id}: its contents are gone; upload it again"
                    ) from None

            return File(media_type=found.mime_type, size=found.size_bytes, read=read)

        return open_file

    async def tend(self) -> None:
        """Remove the contents of what has expired, and what servers left that were killed."""
        long_gone = delete(files).where(files.c.expires_at < self._now() - _REMEMBERED_MS)
        await self._store.write(lambda connection: connection.execute(long_gone))
        await asyncio.to_thread(self.contents.forget_abandoned)
        for bucket in await asyncio.to_thread(lambda: list(self.contents.buckets())):
            async with self.contents.alone():
                await self._tend_bucket(bucket)

    async def _tend_bucket(self, bucket: str) -> None:
        there = set(await asyncio.to_thread(self.contents.within, bucket))
        query = select(files.c.sha256).where(files.c.sha256.like(f"{bucket}%"), *self._unexpired())
        async with self._store.reading() as connection:
            wanted = set((await connection.execute(query)).scalars())
        for sha256 in there - wanted:
            await asyncio.to_thread(self.contents.remove, sha256)

    async def _tend(self) -> None:
        while True:
            try:
                await self.tend()
            except Exception:
                log.exception("the folder of files could not be tended")
            await asyncio.sleep(_TENDED_SECONDS)

    def _living(self, file: StoredFile) -> StoredFile:
        if file.expires_at is not None and file.expires_at <= self._now():
            raise NotFound(
                f"File has expired: {file.id}; upload it again",
                details={"error_code": "file_expired"},
            )
        return file

    async def _all(self, query: Select[Any]) -> list[StoredFile]:
        async with self._store.reading() as connection:
            return [_file(row) for row in (await connection.execute(query)).mappings()]

    def _shown(self, caller: Caller) -> tuple[ColumnElement[bool], ...]:
        return (_seen_by(caller), *self._unexpired())

    def _unexpired(self) -> tuple[ColumnElement[bool]]:
        return (or_(files.c.expires_at.is_(None), files.c.expires_at > self._now()),)

    async def _used(self, connection: AsyncConnection) -> int:
        total = select(func.sum(files.c.size_bytes)).where(*self._unexpired())
        return int((await connection.execute(total)).scalar() or 0)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def arrive(self, used: int, size: int) -> None:
        """Count so many bytes more of an upload, for `Upload`: beside all that are arriving, and
        the files that there were when it began. Raises InvalidRequest."""
        if used + self._arriving + size > self._quota:
            raise self._full()
        self._arriving += size

    def _full(self) -> InvalidRequest:
        return InvalidRequest(
            f"The files of this server may take {self._quota / 2**30:g} GiB together, and this one "
            "goes beyond; delete some",
            details={"error_code": "storage_quota_exceeded"},
        )

    async def keep(
        self,
        incoming: Incoming,
        caller: Caller,
        filename: str,
        mime_type: str,
        expires_in_seconds: int | None,
    ) -> StoredFile:
        """What was uploaded is a file of the caller's; for `Upload`."""
        now = self._now()

        async def work(connection: AsyncConnection) -> StoredFile:
            if await self._used(connection) + incoming.size > self._quota:
                raise self._full()
            file = StoredFile(
                id=new_id("file"),
                filename=filename,
                mime_type=mime_type,
                size_bytes=incoming.size,
                sha256=sha256,
                created_at=now,
                expires_at=expires_in_seconds and now + expires_in_seconds * 1000,
            )
            owner = {"key_id": caller.key_id, "workspace_id": caller.workspace_id}
            await connection.execute(insert(files).values(**asdict(file), **owner))
            return file

        async with self.contents.alone():
            sha256 = await asyncio.to_thread(self.contents.place, incoming)
            return await self._store.write(work)


class Upload:
    """A file on its way in."""

    def __init__(self, files: Files, caller: Caller, incoming: Incoming, *, used: int) -> None:
        self._files = files
        self._caller = caller
        self._incoming = incoming
        self._used = used
        self.counted = 0

    async def write(self, data: bytes) -> None:
        """Raises InvalidRequest where the quota ends, before anything is written beyond it."""
        self._files.arrive(self._used, len(data))
        self.counted += len(data)
        with _room():
            await asyncio.to_thread(self._incoming.write, data)

    async def keep(
        self, *, filename: str, mime_type: str, expires_in_seconds: int | None = None
    ) -> StoredFile:
        """It is a file from now on. Raises InvalidRequest where the quota ends."""
        with _room():
            return await self._files.keep(
                self._incoming, self._caller, filename, mime_type, expires_in_seconds
            )


@contextmanager
def _room() -> Iterator[None]:
    """A full disk is said to be one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EngineFailed(
            "The disk that this server keeps files on is full; its operator has to make room"
        ) from error


def _file(row: RowMapping) -> StoredFile:
    return StoredFile(**{name: row[name] for name in StoredFile.__slots__})


def place_of(file: StoredFile) -> Place:
    return file.created_at, file.id


def _seen_by(caller: Caller) -> ColumnElement[bool]:
    if caller.workspace_id is not None:
        return files.c.workspace_id == caller.workspace_id
    return and_(files.c.workspace_id.is_(None), files.c.key_id.is_not_distinct_from(caller.key_id))


_NEWEST = (files.c.created_at.desc(), files.c.id.desc())
_OLDEST = (files.c.created_at, files.c.id)


def _older(place: Place) -> ColumnElement[bool]:
    when, file_id = place
    same = and_(files.c.created_at == when, files.c.id < file_id)
    return or_(files.c.created_at < when, same)


def _newer(place: Place) -> ColumnElement[bool]:
    when, file_id = place
    same = and_(files.c.created_at == when, files.c.id > file_id)
    return or_(files.c.created_at > when, same)
