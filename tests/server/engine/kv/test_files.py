"""The folder of KV blocks: what is wrong with a file or with the disk is a miss, never an error and
never another block; and the folder takes no more than it may."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.server.engine.kv.files import LONGEST, KeptBlocks

NAMESPACE = "0123456789abcdef"
NAME = "ab" * 32
BLOCK = bytes(range(256)) * 4
NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., KeptBlocks]


@pytest.fixture
def kept(tmp_path: Path, clock: Clock) -> Open:
    def kept(limit: int = 2**20, namespace: str = NAMESPACE, reserve: int = 0) -> KeptBlocks:
        return KeptBlocks(tmp_path / "kv", namespace, limit, reserve=reserve, clock=clock)

    return kept


def name(number: int) -> str:
    return f"{number:064x}"


def file_of(tmp_path: Path, of: str = NAME) -> Path:
    return tmp_path / "kv" / NAMESPACE / f"{of}.kv"


def read(blocks: KeptBlocks, of: str = NAME, size: int = len(BLOCK)) -> bytes | None:
    buffer = bytearray(size)
    return bytes(buffer) if blocks.read_into(of, buffer) else None


def test_what_was_written_is_read_by_another_process(kept: Open) -> None:
    assert kept().write(NAME, BLOCK, NOW + 300)
    assert read(kept()) == BLOCK
    assert kept().read_into(NAME, bytearray(len(BLOCK)))


def test_what_was_not_written_is_a_miss(kept: Open, tmp_path: Path) -> None:
    assert read(kept()) is None
    assert not kept().extend(NAME, len(BLOCK), NOW + 300)
    assert not (tmp_path / "kv").exists(), "asking makes no folder"


def test_namespaces_do_not_share(kept: Open) -> None:
    assert kept().write(NAME, BLOCK, NOW + 300)
    assert read(kept(namespace="f" * 16)) is None


def test_files_and_folders_are_nobody_elses(kept: Open, tmp_path: Path) -> None:
    kept().write(NAME, BLOCK, NOW + 300)
    file = file_of(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.parents[1].stat().st_mode) == 0o700
    assert [each.name for each in file.parent.iterdir()] == [file.name], "nothing half written"


def test_a_folder_that_was_open_to_others_is_closed(kept: Open, tmp_path: Path) -> None:
    (tmp_path / "kv" / NAMESPACE).mkdir(parents=True)
    (tmp_path / "kv" / NAMESPACE).chmod(0o777)
    kept().write(NAME, BLOCK, NOW + 300)
    assert stat.S_IMODE((tmp_path / "kv" / NAMESPACE).stat().st_mode) == 0o700


def test_a_block_expires_and_is_gone(kept: Open, clock: Clock, tmp_path: Path) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    clock.now = NOW + 299
    assert read(blocks) == BLOCK
    clock.now = NOW + 300
    assert read(blocks) is None
    assert not file_of(tmp_path).exists()


def test_use_extends_a_life_and_never_shortens_it(kept: Open, clock: Clock) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 3_000)
    assert blocks.extend(NAME, len(BLOCK), NOW + 300)
    clock.now = NOW + 2_999
    assert blocks.extend(NAME, len(BLOCK), NOW + 3_500)
    clock.now = NOW + 3_499
    assert read(blocks) == BLOCK
    clock.now = NOW + 3_501
    assert not blocks.extend(NAME, len(BLOCK), NOW + 9_000), "what has expired stays so"


def test_nothing_lives_longer_than_the_longest(kept: Open, tmp_path: Path) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 10**9)
    assert file_of(tmp_path).stat().st_mtime == NOW + LONGEST
    os.utime(file_of(tmp_path), (NOW, NOW + 10**8))  # copied from who knows where
    assert read(blocks) is None
    assert not file_of(tmp_path).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: bytes(len(data)),
        lambda data: b"X" + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
)
def test_a_damaged_file_is_a_miss_and_removed(
    kept: Open, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    file = file_of(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    os.utime(file, (NOW, NOW + 300))
    assert read(blocks) is None
    assert not file.exists()
    assert blocks.write(NAME, BLOCK, NOW + 300)
    assert read(blocks) == BLOCK


def test_a_file_under_anothers_name_is_a_miss(kept: Open, tmp_path: Path) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    shutil.copy2(file_of(tmp_path), file_of(tmp_path, name(1)))
    assert read(blocks, name(1)) is None
    assert read(blocks) == BLOCK


def test_a_block_of_another_size_is_a_miss(kept: Open) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    assert not blocks.read_into(NAME, bytearray(len(BLOCK) + 1))
    blocks.write(NAME, BLOCK, NOW + 300)
    assert not blocks.extend(NAME, len(BLOCK) - 1, NOW + 300)


def test_no_link_is_followed(kept: Open, tmp_path: Path) -> None:
    blocks = kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    outside = tmp_path / "outside"
    os.replace(file_of(tmp_path), outside)
    file_of(tmp_path).symlink_to(outside)
    assert read(blocks) is None
    assert not blocks.extend(NAME, len(BLOCK), NOW + 900)
    assert outside.stat().st_mtime == NOW + 300
    file_of(tmp_path).unlink(missing_ok=True)
    file_of(tmp_path).symlink_to(outside)
    assert blocks.write(NAME, BLOCK[::-1], NOW + 300)
    assert BLOCK in outside.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kv" / "aaaaaaaaaaaaaaaa").symlink_to(tmp_path / "elsewhere")
    assert not kept(namespace="a" * 16).write(NAME, BLOCK, NOW + 300)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_no_file_is_a_miss(kept: Open, tmp_path: Path) -> None:
    blocks = kept()
    blocks.write(name(1), BLOCK, NOW + 300)
    file_of(tmp_path).mkdir()
    os.mkfifo(file_of(tmp_path, name(2)))
    for each in (NAME, name(2)):
        assert read(blocks, each) is None
    assert not blocks.write(NAME, BLOCK, NOW + 300)


def test_a_folder_that_vanishes_is_made_again(kept: Open, tmp_path: Path) -> None:
    blocks, reader = kept(), kept()
    blocks.write(NAME, BLOCK, NOW + 300)
    assert read(reader) == BLOCK
    shutil.rmtree(tmp_path / "kv")
    assert read(reader) is None
    assert blocks.write(NAME, BLOCK, NOW + 300)
    assert read(reader) == BLOCK


def test_the_bound_holds_and_the_soonest_to_expire_goes_first(kept: Open, tmp_path: Path) -> None:
    blocks = kept(limit=20_000)
    for number in range(100):
        # Every fifth lives for an hour.
        blocks.write(name(number), BLOCK, NOW + (3_600 if number % 5 == 0 else 300) - number / 1000)
        sizes = [file.stat().st_size for file in (tmp_path / "kv").rglob("*.kv")]
        assert sum(sizes) <= 20_000
    left = {
        number for number in range(100) if kept().read_into(name(number), bytearray(len(BLOCK)))
    }
    assert left >= set(range(0, 75, 5)), "an hour outlives five minutes, and the front the end"


def test_the_bound_is_over_all_namespaces_and_what_was_there_before(kept: Open) -> None:
    for number in range(10):
        kept(limit=2**20).write(name(number), BLOCK, NOW + 300 + number)
    other = kept(limit=5_000, namespace="a" * 16)
    assert other.write(NAME, BLOCK, NOW + 3_600)
    assert other.sweep().bytes <= 5_000
    assert read(other) == BLOCK


def test_a_block_that_is_larger_than_the_bound_is_not_kept(kept: Open) -> None:
    assert not kept(limit=100).write(NAME, BLOCK, NOW + 300)
    assert read(kept()) is None


def test_a_sweep_takes_what_has_expired_and_what_was_left_half_written(
    kept: Open, clock: Clock, tmp_path: Path
) -> None:
    blocks = kept()
    blocks.write(name(1), BLOCK, NOW + 300)
    blocks.write(name(2), BLOCK, NOW + 3_600)
    torn, fresh, foreign = (
        tmp_path / "kv" / NAMESPACE / each for each in (".ab.1.1.part", ".ab.2.2.part", "notes.txt")
    )
    for file in (torn, fresh, foreign):
        file.write_bytes(b"x")
    os.utime(torn, (NOW, NOW - 3_600))
    os.utime(fresh, (NOW, clock.now + 400))
    assert blocks.sweep().next_expiry == NOW + 300
    clock.now = NOW + 301
    swept = blocks.sweep()
    assert (swept.blocks, swept.next_expiry) == (1, NOW + 3_600)
    assert not torn.exists()
    assert fresh.exists()
    assert foreign.exists(), "it is not ours"
    clock.now = NOW + 4_000
    assert blocks.sweep().next_expiry is None


def test_a_disk_that_is_nearly_full_is_left_to_others(
    kept: Open, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = kept(reserve=2**62)
    assert not blocks.write(NAME, BLOCK, NOW + 300)
    assert not blocks.write(NAME, BLOCK, NOW + 300)
    assert len(caplog.records) == 1, "it is told once"


@pytest.mark.parametrize("call", ["open", "write", "replace", "utime", "statvfs", "readv", "mkdir"])
@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE]
)
def test_whatever_the_disk_says_is_a_miss(
    kept: Open, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    blocks = kept()
    blocks.write(name(1), BLOCK, NOW + 300)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fails)
        assert not blocks.write(NAME, BLOCK, NOW + 300) or call in ("readv", "mkdir")
        assert read(blocks, name(1)) in (None, BLOCK)
        assert blocks.extend(name(1), len(BLOCK), NOW + 900) in (True, False)
        blocks.sweep()
    assert blocks.write(NAME, BLOCK, NOW + 300)
    assert read(blocks) == BLOCK


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocks = KeptBlocks(tmp_path / "file" / "kv", NAMESPACE, 2**20, reserve=0)
    assert not blocks.write(NAME, BLOCK, NOW)
    assert read(blocks) is None
    assert blocks.sweep().blocks == 0


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "extend", "remove", "sweep", "wait", "flip", "cut"]),
        st.integers(0, 5),
        st.integers(1, 4_000),
    ),
    max_size=40,
)


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_happens_a_block_is_what_was_written_last_or_a_miss(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    root, clock, limit = tmp_path_factory.mktemp("kept"), Clock(), 5 * (len(BLOCK) + 24)
    blocks = KeptBlocks(root, NAMESPACE, limit, reserve=0, clock=clock)
    written: dict[int, tuple[bytes, float]] = {}
    for what, number, amount in steps:
        of = name(number)
        file = root / NAMESPACE / f"{of}.kv"
        match what:
            case "write":
                block = bytes([amount % 251]) * len(BLOCK)
                assert blocks.write(of, block, clock.now + amount)
                written[number] = (block, clock.now + min(amount, LONGEST))
            case "read":
                found = read(blocks, of)
                assert found is None or found == written[number][0]
                assert found is None or clock.now < written[number][1]
            case "extend":
                if blocks.extend(of, len(BLOCK), clock.now + amount):
                    until = max(written[number][1], clock.now + min(amount, LONGEST))
                    written[number] = (written[number][0], until)
            case "remove":
                blocks.remove(of)
                assert read(blocks, of) is None
            case "sweep":
                assert blocks.sweep().bytes <= limit
            case "wait":
                clock.now += amount
            case "flip" | "cut" if file.exists():
                data, times = bytearray(file.read_bytes()), file.stat()
                if what == "cut":
                    del data[amount % len(data) :]
                else:
                    data[amount % len(data)] ^= 1 << amount % 8
                file.write_bytes(data)
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert sum(each.stat().st_size for each in root.rglob("*.kv")) <= limit
