"""Contents lie on the disk under their digest, whole or not at all."""

import asyncio
import hashlib
import os
import stat
from pathlib import Path

import pytest

from senryu.server.tenancy.contents import Contents


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    made = Contents(tmp_path / "files")
    made.prepare()
    return made


def placed(contents: Contents, data: bytes) -> str:
    incoming = contents.incoming()
    incoming.write(data)
    sha256 = contents.place(incoming)
    incoming.discard()
    return sha256


def test_a_content_is_found_by_its_digest(contents: Contents) -> None:
    sha256 = placed(contents, b"abc")
    assert sha256 == hashlib.sha256(b"abc").hexdigest()
    assert contents.read(sha256) == b"abc"
    assert contents.path(sha256) == contents.folder / sha256[:2] / sha256[2:]


def test_equal_contents_lie_there_once(contents: Contents) -> None:
    assert placed(contents, b"abc") == placed(contents, b"abc")
    (bucket,) = contents.buckets()
    assert len(contents.within(bucket)) == 1


def test_what_is_discarded_leaves_nothing(contents: Contents) -> None:
    incoming = contents.incoming()
    incoming.write(b"abc")
    incoming.discard()
    assert not incoming.path.exists()
    assert list(contents.buckets()) == []


def test_a_content_has_no_name_before_it_is_on_the_disk(
    contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), list(contents.buckets())))

    monkeypatch.setattr(os, "fsync", fsync)
    sha256 = placed(contents, b"abc")
    folders = [Path(name).parent.name for name, _ in synced]
    assert folders[0] == "incoming"
    assert synced[0][1] == []
    assert [name for name, _ in synced[1:]] == [
        str(contents.folder),
        str(contents.path(sha256).parent),
    ]


def test_others_of_this_machine_may_not_look_in(contents: Contents) -> None:
    sha256 = placed(contents, b"abc")
    for path in (contents.folder, contents.path(sha256).parent, contents.path(sha256)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_only_what_has_been_silent_for_long_is_taken_for_abandoned(contents: Contents) -> None:
    old, new = contents.incoming(), contents.incoming()
    os.utime(old.path, (0, 0))
    contents.forget_abandoned()
    assert not old.path.exists()
    assert new.path.exists()
    for incoming in (old, new):
        incoming.discard()


async def test_one_goes_after_the_other_also_from_another_server(contents: Contents) -> None:
    order = []
    other = Contents(contents.folder)

    async def work(whose: Contents, name: str) -> None:
        async with whose.alone():
            order.append(name)
            await asyncio.sleep(0.01)
            order.append(name)

    await asyncio.gather(work(contents, "a"), work(other, "b"), work(contents, "c"))
    assert order[0::2] == order[1::2]
