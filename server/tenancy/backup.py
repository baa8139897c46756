"""All that a server keeps, as one file that any other database can be filled from.

In:  an open store and the folder of uploaded files. Out: a zip that holds a line of JSON for each
row, in `tables/NAME.jsonl`, the uploaded files under their SHA-256, and `manifest.json`, which
comes last and names all others with their lengths and digests. Nothing in it is of one kind of
database: what SQLite wrote PostgreSQL reads, and the other way round.

Rows are read in one snapshot and pass through a few at a time, so that a server may run meanwhile
and no size matters. Of a file that is deleted meanwhile its row is left out.
"""

import hashlib
import os
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import orjson
from sqlalchemy import Table, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .contents import content_path
from .store.opening import Store
from .store.tables import changes, files, metadata, servers

FORMAT = "senryu backup 1"
MANIFEST = "manifest.json"

# Those of one database and its servers, and no use to another one.
_LEFT_OUT = (changes, servers)
KEPT: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table not in _LEFT_OUT)
"""The tables that a backup holds, each behind those that it refers to."""

_ROWS = 1_000
_LARGE_ROWS = {"batch_items": 20}
"""Rows that are in memory at once: a request of a batch may be long."""
PIECE = 1 << 20
"""Bytes that are read at once."""


class BackupError(Exception):
    """It cannot be done. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file in the zip."""

    name: str
    size: int
    sha256: str
    rows: int | None = None
    """None for what is no table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds."""

    format: str
    revision: str
    """Of the tables."""
    made_at: int
    parts: tuple[Part, ...]
    gone: int
    """Contents of uploaded files that were no longer there."""

    @property
    def rows(self) -> int:
        return sum(part.rows or 0 for part in self.parts)

    @property
    def files(self) -> int:
        return sum(part.rows is None for part in self.parts)

    def as_json(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)


def table_name(table: Table) -> str:
    """Of the part with its rows."""
    return f"tables/{table.name}.jsonl"


def content_name(sha256: str) -> str:
    """Of the part that is an uploaded file."""
    return f"files/{sha256[:2]}/{sha256[2:]}"


async def revision(connection: AsyncConnection) -> str:
    """That of the tables of an open database."""
    found: str = (
        await connection.execute(text("SELECT version_num FROM alembic_version"))
    ).scalar_one()
    return found


async def write_backup(store: Store, folder: Path, file: Path, *, now: int) -> Manifest:
    """Write `file`, which is complete or not there. Raises BackupError."""
    try:
        with _drafted(file) as draft, zipfile.ZipFile(draft, "w") as archive:
            return await _write_all(store, folder, archive, now)
    except OSError as error:
        raise BackupError(f"{file} cannot be written ({error.strerror})") from error


@contextmanager
def _drafted(file: Path) -> Iterator[IO[bytes]]:
    """What will be `file` once all of it is on the disk, and is nothing if that fails. It is for
    its owner's eyes: prompts of batches and uploaded files are in it."""
    if file.exists():
        raise BackupError(f"{file} exists already; name another file, or remove it")
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)


async def _write_all(store: Store, folder: Path, archive: zipfile.ZipFile, now: int) -> Manifest:
    parts: list[Part] = []
    async with store.reading() as connection:
        made_of = await revision(connection)
        for table in KEPT:
            if table is not files:
                parts.append(await _write_table(connection, table, archive))
        contents, gone = await _write_contents(connection, folder, archive)
        parts += contents
        parts.append(await _write_table(connection, files, archive, without=gone))
    manifest = Manifest(
        format=FORMAT, revision=made_of, made_at=now, parts=tuple(parts), gone=len(gone)
    )
    archive.writestr(MANIFEST, manifest.as_json())
    return manifest


async def _write_table(
    connection: AsyncConnection,
    table: Table,
    archive: zipfile.ZipFile,
    without: Container[str] = (),
) -> Part:
    """Its rows; of the files not those whose contents are among `without`."""
    query = select(table).order_by(*table.primary_key)
    names = [str(column.name) for column in table.columns]
    together = _LARGE_ROWS.get(table.name, _ROWS)
    number = 0
    with _part(archive, table_name(table), zipfile.ZIP_DEFLATED) as writer:
        rows = await connection.stream(query.execution_options(yield_per=together))
        async for values in rows:
            row = dict(zip(names, values, strict=True))
            if table is files and row["sha256"] in without:
                continue
            writer.write(orjson.dumps(row) + b"\n")
            number += 1
    return writer.part(rows=number)


async def _write_contents(
    connection: AsyncConnection, folder: Path, archive: zipfile.ZipFile
) -> tuple[list[Part], set[str]]:
    """The contents of all uploaded files; and those that are gone."""
    parts: list[Part] = []
    gone: set[str] = set()
    query = select(files.c.sha256).distinct().order_by(files.c.sha256)
    rows = await connection.stream_scalars(query.execution_options(yield_per=_ROWS))
    async for sha256 in rows:
        part = _write_content(archive, sha256, content_path(folder, sha256))
        if part is None:
            gone.add(sha256)
        else:
            parts.append(part)
    return parts, gone


def _write_content(archive: zipfile.ZipFile, sha256: str, path: Path) -> Part | None:
    """None where there is nothing at `path`."""
    try:
        content = path.open("rb")
    except FileNotFoundError:
        return None
    with content, _part(archive, content_name(sha256), zipfile.ZIP_STORED) as writer:
        while piece := content.read(PIECE):
            writer.write(piece)
    part = writer.part()
    if part.sha256 != sha256:
        raise BackupError(f"{path} is damaged; `senryu admin check` names all that are")
    return part


class _Writer:
    """Writes a part and sums it up."""

    def __init__(self, name: str, entry: IO[bytes]) -> None:
        self._name, self._entry = name, entry
        self._size, self._digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._entry.write(data)
        self._size += len(data)
        self._digest.update(data)

    def part(self, rows: int | None = None) -> Part:
        return Part(name=self._name, size=self._size, sha256=self._digest.hexdigest(), rows=rows)


@contextmanager
def _part(archive: zipfile.ZipFile, name: str, how: int) -> Iterator[_Writer]:
    info = zipfile.ZipInfo(name)
    info.compress_type = how
    with archive.open(info, "w", force_zip64=True) as entry:
        yield _Writer(name, entry)
