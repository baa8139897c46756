"""Fills an empty database, and the folder of uploaded files, from what `backup` has written.

All or nothing: the whole backup is read and compared with its manifest before anything is changed;
rows are written in one transaction; and files that were placed before it failed are removed.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Table, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from .backup import (
    FORMAT,
    KEPT,
    MANIFEST,
    PIECE,
    BackupError,
    Manifest,
    Part,
    content_name,
    revision,
    table_name,
)
from .contents import Contents
from .keys import count_change
from .presence import Presence
from .store.opening import Store

_NOBODY = ""  # we are no server

# What is in memory at once.
_ROWS = 500
_BYTES = 4 << 20


async def restore(store: Store, folder: Path, file: Path) -> Manifest:
    """Take all that is in `file`. Raises BackupError."""
    with _opened(file) as archive:
        manifest = _verified(archive, file)
        async with store.reading() as connection:
            ours = await revision(connection)
            await _check_empty(connection)
        if manifest.revision != ours:
            raise BackupError(
                f"{file} has tables of revision {manifest.revision}, and this senryu those of "
                f"{ours}: restore it with the senryu that made it, and then start this one"
            )
        if await Presence(store, _NOBODY).living() - {_NOBODY}:
            raise BackupError("a server is using this database; stop it, and restore then")
        contents = Contents(folder)
        contents.prepare()
        async with contents.alone():  # nobody takes what has no row yet for abandoned
            placed: list[str] = []
            try:
                _place(archive, manifest, contents, placed)
                await store.write(lambda connection: _fill(connection, archive))
            except BaseException as error:
                for sha256 in placed:
                    contents.remove(sha256)
                if isinstance(error, SQLAlchemyError):
                    why = type(error).__name__  # its text may hold what is in the rows
                    raise BackupError(f"{file} does not fit the database ({why})") from error
                if isinstance(error, OSError):
                    raise BackupError(f"{folder} cannot be written ({error.strerror})") from error
                raise
    return manifest


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(file)
    except OSError as error:
        raise BackupError(f"{file} cannot be read ({error.strerror})") from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise BackupError(f"{file} is damaged, or no backup of senryu's ({error})") from error
    with archive:
        yield archive


def _verified(archive: zipfile.ZipFile, file: Path) -> Manifest:
    """What it holds, all of which is there as it was written."""
    try:
        manifest = _manifest(orjson.loads(archive.read(MANIFEST)))
    except (KeyError, TypeError, ValueError):
        raise BackupError(f"{file} is no backup of senryu's") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise BackupError(f"{file} is damaged ({error})") from error
    if manifest.format != FORMAT:
        raise BackupError(f"{file} is a {manifest.format!r}, and this senryu reads {FORMAT!r}")
    tables = {part.name for part in manifest.parts if part.rows is not None}
    if tables != {table_name(table) for table in KEPT}:
        raise BackupError(f"{file} does not have the tables of this senryu")
    for part in manifest.parts:
        if not _is_whole(archive, part):
            raise BackupError(f"{file} is damaged: {part.name} is not what was written")
    return manifest


def _manifest(said: dict[str, Any]) -> Manifest:
    """Raises KeyError, TypeError or ValueError for what is none."""
    manifest = Manifest(**said | {"parts": tuple(Part(**part) for part in said["parts"])})
    for part in manifest.parts:
        if part.rows is None and part.name != content_name(part.sha256):
            raise ValueError(part.name)
    return manifest


def _is_whole(archive: zipfile.ZipFile, part: Part) -> bool:
    digest, size = hashlib.sha256(), 0
    try:
        with archive.open(part.name) as entry:
            while piece := entry.read(PIECE):
                digest.update(piece)
                size += len(piece)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError):
        return False
    return (size, digest.hexdigest()) == (part.size, part.sha256)


async def _check_empty(connection: AsyncConnection) -> None:
    for table in KEPT:
        if (await connection.execute(select(*table.primary_key).limit(1))).first() is not None:
            raise BackupError(
                f"the database is not empty: it has {table.name}; restore into a new one, which "
                "--data or --database names"
            )


def _place(
    archive: zipfile.ZipFile, manifest: Manifest, contents: Contents, placed: list[str]
) -> None:
    """Give the uploaded files their place; what was not there before is noted in `placed`."""
    for part in manifest.parts:
        if part.rows is not None or contents.path(part.sha256).exists():
            continue
        incoming = contents.incoming()
        try:
            with archive.open(part.name) as entry:
                while piece := entry.read(PIECE):
                    incoming.write(piece)
            placed.append(part.sha256)
            contents.place(incoming)
        finally:
            incoming.discard()


async def _fill(connection: AsyncConnection, archive: zipfile.ZipFile) -> None:
    await _check_empty(connection)
    for table in KEPT:
        for rows in _rows(archive, table):
            await connection.execute(insert(table), rows)
    await count_change(connection)


def _rows(archive: zipfile.ZipFile, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Those of a table, a few at a time."""
    wanted = {column.name for column in table.columns}
    rows: list[dict[str, Any]] = []
    size = 0
    with archive.open(table_name(table)) as entry:
        for line in io.BufferedReader(entry, PIECE):  # type: ignore[type-var]
            try:
                row = orjson.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or set(row) != wanted:
                raise BackupError(f"the backup is damaged: {table.name} has a row that is none")
            rows.append(row)
            size += len(line)
            if len(rows) == _ROWS or size > _BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows
