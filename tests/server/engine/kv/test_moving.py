"""Blocks on their way between the KV memory and files: whole, or told as failed."""

import time
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.kv.files import KeptBlocks
from senryu.server.engine.kv.moving import Mover
from senryu.server.engine.kv.work import Load, Save, Work

numpy = pytest.importorskip("numpy")

BLOCKS, BYTES, LAYERS = 20, 64, 3


@pytest.fixture
def files(tmp_path: Path) -> KeptBlocks:
    return KeptBlocks(tmp_path, "a" * 16, 2**20, reserve=0)


def memory(seed: int) -> list[Any]:
    """Layers that lie apart, as vLLM's do."""
    whole = numpy.random.default_rng(seed).integers(0, 256, (LAYERS, BLOCKS, BYTES + 8), "uint8")
    return [layer[:, :BYTES] for layer in whole]


def name(number: int) -> str:
    return f"{number:064x}"


def saves(*numbers: int) -> Work:
    return Work(saves=[Save(number, name(number), time.time() + 300) for number in numbers])


def load(request_id: str, *pairs: tuple[int, int]) -> Work:
    return Work(loads=[Load(request_id, tuple((place, name(kept)) for place, kept in pairs))])


def wait_for(mover: Mover, requests: int = 1) -> tuple[set[str], set[int]]:
    read: set[str] = set()
    failed: set[int] = set()
    deadline = time.monotonic() + 10
    while len(read) < requests and time.monotonic() < deadline:
        newly, bad = mover.read()
        read |= newly
        failed |= bad
        time.sleep(0.001)
    return read, failed


def test_what_was_saved_is_loaded_into_another_memory(files: KeptBlocks) -> None:
    before, after = memory(1), memory(2)
    mover = Mover(files, before)
    mover.save(saves(3, 5))
    mover.close()
    other, untouched = Mover(files, after), memory(2)
    other.load(load("r", (7, 3), (9, 5)))
    assert wait_for(other) == ({"r"}, set())
    for layer in range(LAYERS):
        assert (after[layer][7] == before[layer][3]).all()
        assert (after[layer][9] == before[layer][5]).all()
        for place in set(range(BLOCKS)) - {7, 9}:
            assert (after[layer][place] == untouched[layer][place]).all()
    other.close()


def test_what_is_saved_is_what_stood_there_then(files: KeptBlocks) -> None:
    layers = memory(1)
    then = layers[0][3].copy()
    mover = Mover(files, layers)
    mover.save(saves(3))
    for layer in layers:
        layer[3] = 0
    mover.close()
    again = Mover(files, layers)
    again.load(load("r", (4, 3)))
    wait_for(again)
    assert (layers[0][4] == then).all()
    again.close()


def test_a_block_that_cannot_be_read_fails_with_all_behind_it(files: KeptBlocks) -> None:
    layers = memory(1)
    mover = Mover(files, layers)
    mover.save(saves(1, 3))
    mover.close()
    other = Mover(files, layers)
    other.load(load("r", (10, 1), (11, 2), (12, 3)))
    assert wait_for(other) == ({"r"}, {11, 12})
    other.close()


def test_our_own_bugs_fail_a_load_and_end_nothing(
    files: KeptBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover = Mover(files, memory(1))
    with monkeypatch.context() as broken:
        broken.setattr(files, "read_into", lambda *_: 1 // 0)
        mover.load(load("a", (10, 1), (11, 2)))
        assert wait_for(mover) == ({"a"}, {10, 11})
    mover.load(load("b", (10, 1)))
    assert wait_for(mover) == ({"b"}, {10})
    mover.close()


def test_what_the_disk_cannot_keep_up_with_is_not_kept(
    files: KeptBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write
    monkeypatch.setattr(files, "write", lambda *each: (time.sleep(0.05), write(*each))[1])
    mover = Mover(files, memory(1), queue_bytes=2 * LAYERS * BYTES)
    mover.save(saves(1, 2, 3, 4))
    mover.close()
    assert [files.read_into(name(number), bytearray(mover.size)) for number in (1, 2, 3, 4)] == [
        *(True, True),
        *(False, False),
    ]
    mover = Mover(files, memory(1), queue_bytes=2 * LAYERS * BYTES)
    mover.save(saves(3, 4))
    mover.close()
    assert files.read_into(name(3), bytearray(mover.size))


def test_what_has_expired_is_removed_without_being_asked_for(
    tmp_path: Path, files: KeptBlocks
) -> None:
    mover = Mover(files, memory(1))
    mover.save(Work(saves=[Save(1, name(1), time.time() - 1)]))
    deadline = time.monotonic() + 10
    while not list(tmp_path.rglob("*.kv")) and time.monotonic() < deadline:
        time.sleep(0.001)
    mover.close()
    after = Mover(files, memory(1))
    while list(tmp_path.rglob("*.kv")) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not list(tmp_path.rglob("*.kv"))
    after.close()
