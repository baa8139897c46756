"""Opens the database, brings its tables up to date, and writes to it.

SQLite in WAL mode by default, PostgreSQL by its address; the code above knows no difference.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

Result = TypeVar("Result")
Work = Callable[[AsyncConnection], Awaitable[Result]]
WorkOnMany = Callable[[AsyncConnection, Sequence[Any]], Awaitable[Sequence[Result]]]

# As many writes share one transaction: the disk is waited for once.
_TOGETHER = 512
_WRITES = "senryu_writes"
_PRAGMAS = (
    "busy_timeout=20000",
    "journal_mode=WAL",
    "synchronous=FULL",  # what was answered for is on the disk, also when the power fails
    "foreign_keys=ON",
)


class StoreError(Exception):
    """The database cannot be used. The text is one sentence for the user."""


@dataclass(slots=True)
class _Waiting:
    """What is to be done: `work`, or `on_many` for this row and those that wait beside it."""

    done: asyncio.Future[Any]
    work: Work[Any] | None = None
    on_many: WorkOnMany[Any] | None = None
    row: Any = None


@dataclass(slots=True)
class Store:
    """An open database. For one event loop."""

    engine: AsyncEngine
    _waiting: list[_Waiting] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that sees the database as it was when it began to read."""
        async with self.engine.connect() as connection:
            yield connection

    async def write(self, work: Work[Result]) -> Result:
        """What `work` gives, once all that it did is on the disk.

        Writes of many callers share transactions, so `work` may run twice: when another's failed,
        all that it did before is undone. It is done even when the caller stops waiting.
        """
        return cast(Result, await self._queued(_Waiting(self._future(), work=work)))

    async def write_among(self, on_many: WorkOnMany[Result], row: object) -> Result:
        """The same for one row of many that are alike: `on_many`, a function of a module, is given
        all rows that wait for it, and gives a result for each. A statement for each would cost two
        turns of a busy event loop, and hundreds of streams make such a turn long."""
        waiting = _Waiting(self._future(), on_many=on_many, row=row)
        return cast(Result, await self._queued(waiting))

    def _future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _queued(self, waiting: _Waiting) -> Any:
        self._waiting.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return await asyncio.shield(waiting.done)

    async def _write_all(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            try:
                await self._write_together(together)
            except Exception as error:
                if len(together) == 1:
                    _fail(together[0], error)
                    continue
                for one in together:  # whose fault it was is found out one by one
                    try:
                        await self._write_together([one])
                    except Exception as its_own:
                        _fail(one, its_own)

    async def _write_together(self, together: list[_Waiting]) -> None:
        async with self.engine.connect() as connection:
            connection = await connection.execution_options(**{_WRITES: True})
            async with connection.begin():
                results = await _done(connection, together)
        for one, result in results:
            if not one.done.done():
                one.done.set_result(result)

    async def faults(self) -> list[str]:
        """What the database's own check finds wrong with it; PostgreSQL needs none."""
        if self.engine.dialect.name != "sqlite":
            return []
        async with self.reading() as connection:
            said = (await connection.execute(text("PRAGMA integrity_check"))).scalars().all()
        return [line for line in said if line != "ok"]

    async def close(self) -> None:
        """Waits for what is being written."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait({self._writer})
        await self.engine.dispose()


async def _done(
    connection: AsyncConnection, together: Sequence[_Waiting]
) -> list[tuple[_Waiting, Any]]:
    """Each with its result; rows that are alike go first, at once."""
    alike: dict[WorkOnMany[Any], list[_Waiting]] = {}
    for one in together:
        if one.on_many is not None:
            alike.setdefault(one.on_many, []).append(one)
    results: list[tuple[_Waiting, Any]] = []
    for on_many, ones in alike.items():
        told = await on_many(connection, [one.row for one in ones])
        results += zip(ones, told, strict=True)
    for one in together:
        if one.work is not None:
            results.append((one, await one.work(connection)))
    return results


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.done.done():
        one.done.set_exception(error)
        one.done.exception()  # a caller that stopped waiting hears nothing of it, nor does the log


async def open_store(address: str) -> Store:
    """The database at `address`, a path of SQLite's or a URL, its tables up to date. Raises
    StoreError."""
    url = _url(address)
    try:
        # What is written may be prompts and answers: an error that is logged does not quote it.
        engine = create_async_engine(url, hide_parameters=True, **_options(url))
    except ModuleNotFoundError as error:
        raise StoreError(
            f"database: PostgreSQL needs {error.name}: run pip install 'senryu[postgres]'"
        ) from error
    if url.get_backend_name() == "sqlite":
        _as_we_use_sqlite(engine)
    try:
        async with _alone(url), engine.connect() as connection:
            connection = await connection.execution_options(**{_WRITES: True})
            async with connection.begin():
                await connection.run_sync(migrate)
    except StoreError:
        await engine.dispose()
        raise
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        raise StoreError(f"database: {shown(url)} cannot be used ({_cause(error)})") from error
    return Store(engine)


@asynccontextmanager
async def _alone(url: URL) -> AsyncIterator[None]:
    """Of servers that open one file at once, one goes first: while SQLite makes a new one ready for
    several, it does not wait for its lock."""
    if not url.database or url.database == ":memory:" or url.get_backend_name() != "sqlite":
        yield
        return
    lock = await asyncio.to_thread(_locked, Path(f"{url.database}.opening"))
    with lock:
        yield


def _locked(file: Path) -> TextIO:
    """The file, with a lock on it for as long as it is open."""
    opened = file.open("w")
    fcntl.flock(opened, fcntl.LOCK_EX)
    return opened


def migrate(connection: Connection, to: str = "head") -> None:
    """Bring the tables up to date, within the connection's transaction. Raises StoreError for a
    database that a later senryu has written."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":  # of servers that start at once one goes first
        connection.execute(text("SELECT pg_advisory_xact_lock(7367891)"))
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise StoreError(
            f"database: it was written by a later senryu than this one ({error}); install that one"
        ) from error


def shown(url: URL) -> str:
    """The address without its password."""
    return url.render_as_string(hide_password=True)


def _url(address: str) -> URL:
    if "://" not in address:
        return URL.create("sqlite+aiosqlite", database=address)
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise StoreError(
            "database: its address cannot be read; write a path, or postgresql://USER@HOST/NAME"
        ) from None
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    drivers["postgres"] = drivers["postgresql"]
    name = url.drivername.partition("+")[0]
    if name not in drivers:
        raise StoreError(f"database: {name} is not known; take a path of SQLite's, or postgresql")
    return url.set(drivername=drivers[name])


def _options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            _prepare(Path(url.database))
        return {}
    return {"pool_pre_ping": True, "isolation_level": "REPEATABLE READ"}


def _prepare(file: Path) -> None:
    """Its folder is there, and what lies in its place is a database."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("rb") as opened:
            begins = opened.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"database: {file} cannot be used ({error.strerror})") from error
    if begins and not begins.startswith(b"SQLite format 3"):
        raise StoreError(f"database: {file} cannot be used (it is no SQLite database)")


def _as_we_use_sqlite(engine: AsyncEngine) -> None:
    """Transactions are ours to begin, for Python's driver would begin them late; and those that
    write take the lock first, or two of them could wait for each other."""

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            for pragma in _PRAGMAS:
                cursor.execute(f"PRAGMA {pragma}")
        except Exception:
            connection.close()  # nobody else will, and its thread would go on
            raise
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _cause(error: BaseException) -> str:
    """The last line of what the driver says, which SQLAlchemy wraps in its own."""
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[-1] if str(original).strip() else repr(original)
