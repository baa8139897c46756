"""Uploaded files: whose they are, how long they are there, and how many there may be."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from senryu.server.conversation.media import FileMissing, MediaError
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.files import Files, StoredFile, place_of
from senryu.server.tenancy.store.opening import Store
from senryu.server.wire.errors import InvalidRequest, NotFound

ANN = Caller(name="ann", salt="a", key_id="k1")
BOB = Caller(name="bob", salt="b", key_id="k2")
NOBODY = Caller(name="", salt="n")
TEAM = [Caller(name=name, salt="t", key_id=name, workspace_id="w") for name in ("cy", "di")]


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def files(store: Store, tmp_path: Path, clock: Clock) -> AsyncIterator[Files]:
    made = Files(store, tmp_path / "files", quota=1000, clock=clock)
    await made.start()
    yield made
    await made.close()


async def add(files: Files, caller: Caller, data: bytes = b"abc", **told: Any) -> StoredFile:
    told = {"filename": "a.txt", "mime_type": "text/plain"} | told
    async with files.upload(caller) as upload:
        await upload.write(data)
        return await upload.keep(**told)


def on_disk(files: Files) -> int:
    return sum(len(files.contents.within(bucket)) for bucket in files.contents.buckets())


def arriving(files: Files) -> int:
    return len(list((files.contents.folder / "incoming").iterdir()))


async def seen(files: Files, caller: Caller) -> list[str]:
    return [file.id for file in (await files.page(caller, limit=100))[0]]


async def test_a_file_is_what_was_said_of_it(files: Files, clock: Clock) -> None:
    file = await add(files, ANN, filename="ä b.txt", expires_in_seconds=3600)
    assert await files.get(ANN, file.id) == file
    assert file.id.startswith("file_")
    assert (file.filename, file.mime_type, file.size_bytes) == ("ä b.txt", "text/plain", 3)
    assert (file.created_at, file.expires_at) == (clock.now * 1000, clock.now * 1000 + 3_600_000)


async def test_a_file_is_there_for_its_workspace_or_else_for_its_key(files: Files) -> None:
    cy, di = TEAM
    everybody = (ANN, BOB, cy, di, NOBODY)
    for owner, who in ((ANN, {ANN}), (cy, {cy, di}), (NOBODY, {NOBODY})):
        file = await add(files, owner)
        for caller in everybody:
            there = file.id in await seen(files, caller)
            assert there == (caller in who)
            assert there == bool(await files.several(caller, [file.id]))
            if caller not in who:
                for ask in (files.get, files.delete):
                    with pytest.raises(NotFound, match=r"^File not found: file_"):
                        await ask(caller, file.id)
        assert (await files.get(owner, file.id)).id == file.id  # nobody has removed it


@pytest.mark.parametrize("name", ["", "file_", "x", "file_\0", "file_\ud800", "file_" + "a" * 99])
async def test_an_id_that_is_none_is_just_not_found(files: Files, name: str) -> None:
    with pytest.raises(NotFound):
        await files.get(ANN, name)
    assert await files.several(ANN, [name]) == []


async def test_a_content_goes_with_its_last_file(files: Files) -> None:
    first, second = await add(files, ANN), await add(files, BOB)
    assert first.id != second.id
    assert on_disk(files) == 1
    await files.delete(ANN, first.id)
    assert on_disk(files) == 1
    await files.delete(BOB, second.id)
    assert on_disk(files) == 0
    with pytest.raises(NotFound):
        await files.delete(BOB, second.id)


async def test_what_has_expired_is_gone_and_told_apart_for_a_month(
    files: Files, clock: Clock
) -> None:
    file, kept = await add(files, ANN, expires_in_seconds=3600), await add(files, ANN, b"other")
    clock.now += 3600
    with pytest.raises(NotFound) as gone:
        await files.get(ANN, file.id)
    assert gone.value.details == {"error_code": "file_expired"}
    assert await seen(files, ANN) == [kept.id]
    assert await files.used() == kept.size_bytes
    await files.tend()
    assert on_disk(files) == 1
    clock.now += 31 * 86_400
    await files.tend()
    with pytest.raises(NotFound) as forgotten:
        await files.get(ANN, file.id)
    assert forgotten.value.details is None
    assert await seen(files, ANN) == [kept.id]


async def test_a_content_that_another_file_has_outlives_one_that_expires(
    files: Files, clock: Clock
) -> None:
    await add(files, ANN, expires_in_seconds=3600)
    kept = await add(files, BOB)
    clock.now += 3600
    await files.tend()
    assert files.contents.read(kept.sha256) == b"abc"


async def test_the_quota_is_for_all_files_together(files: Files) -> None:
    first = await add(files, ANN, b"x" * 600)
    with pytest.raises(InvalidRequest, match="delete some") as refused:
        await add(files, BOB, b"y" * 401)
    assert refused.value.details == {"error_code": "storage_quota_exceeded"}
    assert (on_disk(files), arriving(files)) == (1, 0)
    await add(files, BOB, b"y" * 400)
    await files.delete(ANN, first.id)
    await add(files, ANN, b"z" * 600)


async def test_what_others_have_is_counted_in_full(files: Files) -> None:
    """Or who is near the quota would learn whether a content is there already."""
    await add(files, ANN, b"x" * 600)
    with pytest.raises(InvalidRequest):
        await add(files, BOB, b"x" * 600)


async def test_what_is_on_its_way_counts_too(files: Files) -> None:
    """A thousand uploads at once fill no disk."""
    async with files.upload(ANN) as first:
        await first.write(b"x" * 600)
        async with files.upload(BOB) as second:
            with pytest.raises(InvalidRequest, match="delete some"):
                await second.write(b"y" * 600)
    await add(files, BOB, b"y" * 600)


async def test_uploads_at_once_do_not_pass_the_quota_together(files: Files) -> None:
    async def attempt(number: int) -> None:
        with suppress(InvalidRequest):
            await add(files, ANN, bytes([number]) * 300)

    await asyncio.gather(*map(attempt, range(8)))
    assert 300 <= await files.used() <= 1000


async def test_an_upload_that_is_not_kept_leaves_nothing(files: Files) -> None:
    async with files.upload(ANN) as upload:
        await upload.write(b"x")
        assert arriving(files) == 1
    assert (arriving(files), on_disk(files), await seen(files, ANN)) == (0, 0, [])


async def test_pages_have_every_file_once_in_both_directions(files: Files, clock: Clock) -> None:
    ids = []
    for number in range(7):
        ids.append((await add(files, ANN)).id)
        clock.now += number % 3 == 0  # some are of one moment
    newest = await seen(files, ANN)
    assert sorted(newest) == sorted(ids)
    found, more, after = [], True, None
    while more:
        page, more = await files.page(ANN, limit=3, after=after)
        after = place_of(page[-1])
        found += [file.id for file in page]
    assert found == newest
    back, more, before = [], True, after
    while more:
        page, more = await files.page(ANN, limit=3, before=before)
        before = place_of(page[0])
        back = [file.id for file in page] + back
    assert back == newest[:-1]


async def test_a_list_of_ids_leaves_out_what_is_not_there(files: Files) -> None:
    mine, others = await add(files, ANN), await add(files, BOB)
    found = await files.several(ANN, [others.id, mine.id, "file_none", "nonsense"])
    assert found == [mine]


async def test_what_a_killed_server_left_is_tidied_up(files: Files) -> None:
    kept = await add(files, ANN)
    orphan = files.contents.incoming()
    orphan.write(b"placed, but its row was never written")
    files.contents.place(orphan)
    assert on_disk(files) == 2
    await files.tend()
    assert on_disk(files) == 1
    assert files.contents.read(kept.sha256) == b"abc"


async def test_uploads_and_deletions_of_one_content_never_lose_it(files: Files) -> None:
    """A content is not removed between its placing and its row."""

    async def again(number: int) -> None:
        file = await add(files, ANN, b"the same")
        await asyncio.to_thread(files.contents.read, file.sha256)
        await files.delete(ANN, file.id)

    await asyncio.gather(*map(again, range(20)))
    assert on_disk(files) == 0


async def test_a_message_sees_the_files_of_its_caller(files: Files, clock: Clock) -> None:
    file = await add(files, ANN, b"abc", expires_in_seconds=3600)
    opened = await asyncio.to_thread(files.seen_by(ANN), file.id, 5.0)
    assert (opened.media_type, opened.size, opened.read()) == ("text/plain", 3, b"abc")
    with pytest.raises(FileMissing, match="File not found"):
        await asyncio.to_thread(files.seen_by(BOB), file.id, 5.0)
    files.contents.remove(file.sha256)
    with pytest.raises(FileMissing, match="its contents are gone; upload it again"):
        opened.read()
    clock.now += 3600
    with pytest.raises(FileMissing) as gone:
        await asyncio.to_thread(files.seen_by(ANN), file.id, 5.0)
    assert gone.value.details == {"error_code": "file_expired"}


async def test_a_file_is_not_waited_for_beyond_the_time_of_its_request(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    async def stuck(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    monkeypatch.setattr(files, "get", stuck)
    with pytest.raises(MediaError, match="took longer than"):
        await asyncio.to_thread(files.seen_by(ANN), "file_1", 0.01)
    assert await asyncio.to_thread(left.wait, 5)
