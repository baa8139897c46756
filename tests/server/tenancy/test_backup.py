"""A backup holds everything, fits the other kind of database, and is restored whole or not at
all."""

import asyncio
import hashlib
import json
import os
import secrets
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server import admin_cli
from senryu.server.settings import ServerSettings
from senryu.server.tenancy import backup, keys
from senryu.server.tenancy.backup import KEPT, BackupError, write_backup
from senryu.server.tenancy.callers import Callers
from senryu.server.tenancy.checking import check
from senryu.server.tenancy.contents import content_path
from senryu.server.tenancy.directory import Directory
from senryu.server.tenancy.presence import now_ms
from senryu.server.tenancy.restore import restore
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.tenancy.store.tables import batch_items, batches, files, ledger, servers

PDF = b"%PDF of somebody's" * 100_000
NOTE = "日本語, and a zero: \\u0000".encode()


@pytest.fixture
def other_address(address: str, new_address: Callable[[str], str]) -> str:
    """Of an empty database of the other kind."""
    return new_address("postgres" if "://" not in address else "sqlite")


def ledger_row(number: int) -> dict[str, Any]:
    return {
        "id": f"msg_{number}",
        "request_id": f"req_{number}",
        "server": "server_1",
        "key_id": "settings:bob",
        "model": "tiny",
        "tier": "batch",
        "state": "done",
        "started_at": 2**41 + number,
        "input_tokens": number,
        "cost": 2**45,
    }


async def fill(store: Store, folder: Path) -> str:
    """Some of everything; the secret of a key that is good."""
    _, secret = await keys.create(store, "ann", role="batch", workspace="team", now=1)
    await keys.limit_key(store, "ann", {"usd_per_day": 2.5})
    await keys.create(store, "bob", role="user", workspace=None, expires_at=2**41, now=1)
    await keys.disable(store, "bob")
    batch = {
        "id": "msgbatch_1",
        "version": "2023-06-01",
        "betas": ["a", "ü"],
        "status": "ended",
        "created_at": 1,
        "expires_at": 2,
        "requests": 2,
        "succeeded": 1,
        "errored": 1,
    }
    items = [
        {"number": 0, "custom_id": "one", "state": "succeeded", "result": NOTE.decode()},
        {"number": 1, "custom_id": "two", "state": "errored", "result": '"line\\n"\n\u2028'},
    ]

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(insert(ledger), [ledger_row(number) for number in range(3)])
        await connection.execute(insert(batches), [batch])
        await connection.execute(
            insert(batch_items), [{"batch_id": "msgbatch_1", "params": None} | row for row in items]
        )
        uploaded = [("file_1", PDF), ("file_2", NOTE), ("file_3", PDF)]
        for file_id, content in uploaded:
            row = {
                "id": file_id,
                "filename": "Größe.pdf",
                "mime_type": "application/pdf",
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "created_at": 1,
            }
            await connection.execute(insert(files).values(row))

    await store.write(work)
    for content in (PDF, NOTE):
        path = content_path(folder, hashlib.sha256(content).hexdigest())
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return secret


async def everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    async with store.reading() as connection:
        return {
            table.name: [
                dict(row)
                for row in (
                    await connection.execute(select(table).order_by(*table.primary_key))
                ).mappings()
            ]
            for table in KEPT
        }


@pytest.fixture
async def full(store: Store, tmp_path: Path) -> tuple[Store, Path, str]:
    """A store with some of everything, its folder of files, and a key."""
    folder = tmp_path / "files"
    return store, folder, await fill(store, folder)


async def test_restored_into_the_other_kind_of_database_all_is_there_and_the_keys_open(
    full: tuple[Store, Path, str], other_address: str, tmp_path: Path
) -> None:
    store, folder, secret = full
    file, elsewhere = tmp_path / "backup.zip", tmp_path / "elsewhere"
    made = await write_backup(store, folder, file, now=7)
    assert (made.files, made.gone, made.made_at) == (2, 0, 7)
    assert made.rows == 3 + 1 + 2 + 3 + 2 + 1

    other = await open_store(other_address)
    assert await restore(other, elsewhere, file) == made
    assert await everything(other) == await everything(store)
    assert {path.read_bytes() for path in elsewhere.glob("??/*")} == {PDF, NOTE}
    assert (await check(other, elsewhere)).faults == []
    known = Callers(ServerSettings(), b"s" * 32)
    await Directory(other, known).read()
    ann = known.named([secret.encode()])
    assert ann is not None
    assert (ann.name, ann.role) == ("ann", "batch")

    again = tmp_path / "again.zip"
    await write_backup(other, elsewhere, again, now=7)
    assert parts(again) == parts(file)
    await other.close()


def parts(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def test_it_holds_no_key_and_is_for_its_owners_eyes(
    full: tuple[Store, Path, str], tmp_path: Path
) -> None:
    store, folder, secret = full
    file = tmp_path / "backup.zip"
    await write_backup(store, folder, file, now=7)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(secret.encode() in part for part in parts(file).values())
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


async def test_a_file_that_is_there_is_not_written_over(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(BackupError, match="exists already"):
        await write_backup(store, tmp_path, file, now=7)
    assert file.read_text() == "mine"


async def test_where_it_cannot_be_written_nothing_is_left(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot be written"):
        await write_backup(store, tmp_path, tmp_path / "no" / "backup.zip", now=7)


async def test_it_is_one_moment_also_while_others_write(
    full: tuple[Store, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written once the snapshot is taken is not in it, whichever table it is in."""
    store, folder, _ = full
    before = await everything(store)
    written: list[int] = []
    revision = backup.revision

    async def and_then_others_write(connection: AsyncConnection) -> str:
        found = await revision(connection)
        late = insert(ledger).values(ledger_row(99))
        gone = update(files).values(filename="renamed")
        await store.write(lambda connection: connection.execute(late))
        await store.write(lambda connection: connection.execute(gone))
        written.append(1)
        return found

    monkeypatch.setattr(backup, "revision", and_then_others_write)
    await write_backup(store, folder, tmp_path / "backup.zip", now=7)
    assert written
    held = parts(tmp_path / "backup.zip")
    for table in KEPT:
        rows = [json.loads(line) for line in held[f"tables/{table.name}.jsonl"].splitlines()]
        assert rows == before[table.name]


async def test_a_file_that_was_deleted_meanwhile_is_left_out_and_counted(
    full: tuple[Store, Path, str], tmp_path: Path
) -> None:
    store, folder, _ = full
    content_path(folder, hashlib.sha256(PDF).hexdigest()).unlink()
    made = await write_backup(store, folder, tmp_path / "backup.zip", now=7)
    assert (made.files, made.gone) == (1, 1)
    rows = parts(tmp_path / "backup.zip")["tables/files.jsonl"].splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["file_2"]


async def test_a_damaged_file_is_not_backed_up_as_if_it_were_good(
    full: tuple[Store, Path, str], tmp_path: Path
) -> None:
    store, folder, _ = full
    content_path(folder, hashlib.sha256(PDF).hexdigest()).write_bytes(b"something else")
    with pytest.raises(BackupError, match="is damaged; `senryu admin check`"):
        await write_backup(store, folder, tmp_path / "backup.zip", now=7)
    assert not (tmp_path / "backup.zip").exists()


# --- restoring ------------------------------------------------------------------------------------


async def nothing(store: Store) -> bool:
    return not any((await everything(store)).values())


async def test_only_an_empty_database_is_restored_into(
    full: tuple[Store, Path, str], tmp_path: Path
) -> None:
    store, folder, _ = full
    await write_backup(store, folder, tmp_path / "backup.zip", now=7)
    before = await everything(store)
    with pytest.raises(BackupError, match="the database is not empty: it has"):
        await restore(store, folder, tmp_path / "backup.zip")
    assert await everything(store) == before


@pytest.fixture
async def made(full: tuple[Store, Path, str], tmp_path: Path) -> Path:
    store, folder, _ = full
    await write_backup(store, folder, tmp_path / "backup.zip", now=7)
    return tmp_path / "backup.zip"


def rewritten(file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The same backup with other parts."""
    held = parts(file)
    change(held)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return file


def foreign(file: Path) -> None:
    file.write_bytes(b"a picture of a cat" * 1000)


def short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[2_000] ^= 1
    file.write_bytes(content)


def another_zip(file: Path) -> None:
    rewritten(file, dict[str, bytes].clear)


def no_manifest_of_ours(file: Path) -> None:
    rewritten(file, lambda held: held.update({"manifest.json": b'{"version": 3}'}))


def a_part_is_gone(file: Path) -> None:
    rewritten(file, lambda held: held.pop("tables/ledger.jsonl"))


def a_row_is_another(file: Path) -> None:
    def change(held: dict[str, bytes]) -> None:
        held["tables/keys.jsonl"] = held["tables/keys.jsonl"].replace(b'"batch"', b'"admin"')

    rewritten(file, change)


def later_tables(file: Path) -> None:
    def change(held: dict[str, bytes]) -> None:
        held["manifest.json"] = held["manifest.json"].replace(b'"0001"', b'"9999"')

    rewritten(file, change)


def later_form(file: Path) -> None:
    def change(held: dict[str, bytes]) -> None:
        held["manifest.json"] = held["manifest.json"].replace(b"backup 1", b"backup 2")

    rewritten(file, change)


def table_of_others(file: Path) -> None:
    def change(held: dict[str, bytes]) -> None:
        held["manifest.json"] = held["manifest.json"].replace(b"ledger.jsonl", b"others.jsonl")

    rewritten(file, change)


def resummed(file: Path, name: str, content: Callable[[bytes], bytes]) -> None:
    """A forger also knows how to write digests."""

    def change(held: dict[str, bytes]) -> None:
        held[name] = content(held[name])
        manifest = json.loads(held["manifest.json"])
        for part in manifest["parts"]:
            if part["name"] == name:
                part["size"] = len(held[name])
                part["sha256"] = hashlib.sha256(held[name]).hexdigest()
        held["manifest.json"] = json.dumps(manifest).encode()

    rewritten(file, change)


def rows_of_others(file: Path) -> None:
    resummed(file, "tables/ledger.jsonl", lambda rows: rows.replace(b'"tier"', b'"tear"'))


def rows_that_refer_to_nothing(file: Path) -> None:
    resummed(file, "tables/workspaces.jsonl", lambda rows: rows.replace(b"wrkspc_", b"wrkspe_"))


def rows_that_are_not_json(file: Path) -> None:
    resummed(file, "tables/files.jsonl", lambda rows: rows + b"{")


def a_way_out_of_the_folder(file: Path) -> None:
    def change(held: dict[str, bytes]) -> None:
        manifest = json.loads(held["manifest.json"])
        part = next(part for part in manifest["parts"] if part["name"].startswith("files/"))
        held["files/../../evil"] = held[part["name"]]
        part["name"] = "files/../../evil"
        held["manifest.json"] = json.dumps(manifest).encode()

    rewritten(file, change)


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (foreign, "is damaged, or no backup of senryu's"),
        (short, "is damaged, or no backup of senryu's"),
        (flipped, "is damaged"),
        (another_zip, "is no backup of senryu's"),
        (no_manifest_of_ours, "is no backup of senryu's"),
        (a_part_is_gone, "tables/ledger.jsonl is not what was written"),
        (a_row_is_another, "tables/keys.jsonl is not what was written"),
        (later_tables, "tables of revision 9999"),
        (later_form, "'senryu backup 2'"),
        (table_of_others, "does not have the tables of this senryu"),
        (rows_of_others, "ledger has a row that is none"),
        (rows_that_refer_to_nothing, "does not fit the database"),
        (rows_that_are_not_json, "files has a row that is none"),
        (a_way_out_of_the_folder, "is no backup of senryu's"),
        (gone, "cannot be read"),
    ],
)
async def test_what_is_damaged_or_foreign_is_refused_and_leaves_nothing(
    made: Path,
    tmp_path: Path,
    other_address: str,
    harm: Callable[[Path], None],
    said: str,
) -> None:
    harm(made)
    other = await open_store(other_address)
    with pytest.raises(BackupError) as refused:
        await restore(other, tmp_path / "elsewhere" / "files", made)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert await nothing(other)
    assert list((tmp_path / "elsewhere").glob("files/??/*")) == []
    assert not (tmp_path / "evil").exists()
    await other.close()


async def test_a_server_that_uses_the_database_is_to_stop_first(
    made: Path, tmp_path: Path, other_address: str
) -> None:
    """What it knows of budgets it has read from an empty ledger."""
    other = await open_store(other_address)
    row = {"id": "server_2", "host": "elsewhere.test", "pid": 1, "seen_at": now_ms()}
    await other.write(lambda connection: connection.execute(insert(servers).values(row)))
    with pytest.raises(BackupError, match="a server is using this database"):
        await restore(other, tmp_path / "elsewhere", made)
    assert await nothing(other)
    stale = update(servers).values(seen_at=1)
    await other.write(lambda connection: connection.execute(stale))
    await restore(other, tmp_path / "elsewhere", made)
    await other.close()


async def test_files_that_were_there_before_stay_when_it_fails(
    made: Path, tmp_path: Path, other_address: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = content_path(elsewhere, hashlib.sha256(NOTE).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(NOTE)
    rows_of_others(made)
    other = await open_store(other_address)
    with pytest.raises(BackupError):
        await restore(other, elsewhere, made)
    assert [found.read_bytes() for found in elsewhere.glob("??/*")] == [NOTE]
    await other.close()


async def test_memory_stays_flat_however_much_there_is(
    store: Store, other_address: str, tmp_path: Path
) -> None:
    """10,000 rows and a file of 32 MiB pass through a third of what they are."""
    content = secrets.token_bytes(1 << 20) * 32
    path = content_path(tmp_path / "files", hashlib.sha256(content).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    row = {
        "id": "file_1",
        "filename": "f",
        "mime_type": "text/plain",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "created_at": 1,
    }
    del content
    await store.write(lambda connection: connection.execute(insert(files).values(row)))
    for begin in range(0, 10_000, 2_000):
        rows = [ledger_row(begin + number) for number in range(2_000)]
        await store.write(lambda connection, rows=rows: connection.execute(insert(ledger), rows))
    del rows
    other = await open_store(other_address)
    tracemalloc.start()
    try:
        await write_backup(store, tmp_path / "files", tmp_path / "backup.zip", now=7)
        await restore(other, tmp_path / "elsewhere", tmp_path / "backup.zip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    async with other.reading() as connection:
        assert (await connection.execute(select(func.count(ledger.c.id)))).scalar() == 10_000
    assert peak < 12 * 2**20
    await other.close()


# --- checking, and the command --------------------------------------------------------------------


async def test_the_check_finds_what_is_wrong(full: tuple[Store, Path, str]) -> None:
    store, folder, _ = full
    found = await check(store, folder)
    assert found.faults == []
    assert found.rows["ledger"] == 3
    content_path(folder, hashlib.sha256(PDF).hexdigest()).write_bytes(PDF[:-1])
    content_path(folder, hashlib.sha256(NOTE).hexdigest()).unlink()
    pending = update(batch_items).where(batch_items.c.number == 1).values(state="pending")
    await store.write(lambda connection: connection.execute(pending))
    faults = (await check(store, folder)).faults
    assert len(faults) == 3
    assert "batch msgbatch_1: of 2 requests" in faults[0]
    assert any("file file_2" in fault and "cannot be read" in fault for fault in faults)
    assert any("file file_1" in fault and "is damaged" in fault for fault in faults)


async def test_an_archived_batch_has_no_results_and_is_sound(
    full: tuple[Store, Path, str],
) -> None:
    store, folder, _ = full
    await store.write(lambda connection: connection.execute(text("DELETE FROM batch_items")))
    await store.write(lambda connection: connection.execute(update(batches).values(archived_at=9)))
    assert (await check(store, folder)).faults == []


def test_the_command_goes_there_and_back(
    address: str,
    other_address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SENRYU_")]:
        monkeypatch.delenv(name)

    async def filled() -> None:
        store = await open_store(address)
        await fill(store, tmp_path / "a" / "files")
        await store.close()

    asyncio.run(filled())
    here = ["--database", address, "--data", "a"]
    there = ["--database", other_address, "--data", "b"]
    assert admin_cli.main(["backup", "all.zip", *here]) == 0
    assert capsys.readouterr().out == "all.zip holds 12 rows and 2 uploaded files\n"
    assert admin_cli.main(["backup", "all.zip", *here]) == 1
    assert capsys.readouterr().err.startswith("senryu admin: all.zip exists already")
    assert admin_cli.main(["restore", "all.zip", *there]) == 0
    assert capsys.readouterr().out == "12 rows and 2 uploaded files were restored\n"
    assert admin_cli.main(["restore", "all.zip", *there]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert admin_cli.main(["check", *there]) == 0
    assert "all is sound" in capsys.readouterr().out
    next((tmp_path / "b").glob("files/??/*")).write_bytes(b"")
    assert admin_cli.main(["check", *there]) == 1
    told = capsys.readouterr()
    assert "faults: 1" in told.out
    assert "is damaged" in told.err
    assert admin_cli.main(["check", "--database", "none"]) == 2
