"""The folder of vLLM's own file tier is kept in bounds."""

import os
import time
from pathlib import Path

from senryu.server.engine.kv.tending import Tender, tend
from senryu.server.engine.vllm_arguments import Tended

NOW = 1_800_000_000.0


def block(folder: Path, name: str, *, age: float, size: int = 100) -> Path:
    path = folder / "gpu-1" / "m_r0" / "abc" / "de_g0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_the_oldest_go_until_the_others_fit(tmp_path: Path) -> None:
    blocks = [block(tmp_path, f"{age}.bin", age=age) for age in range(10)]
    assert tend(Tended(folder=str(tmp_path), bytes=550), now=NOW) == 500
    assert [path.exists() for path in blocks] == [True] * 5 + [False] * 5


def test_nothing_outlives_a_day(tmp_path: Path) -> None:
    old = block(tmp_path, "old.bin", age=86_401)
    torn = block(tmp_path, "x.bin_1.tmp", age=86_401)
    young = block(tmp_path, "young.bin", age=86_399)
    config = block(tmp_path, "config.json", age=86_401)
    assert tend(Tended(folder=str(tmp_path), bytes=10**6), now=NOW) == 100
    assert [each.exists() for each in (old, torn, young, config)] == [False, False, True, True]


def test_empty_folders_go_once_nothing_comes_into_them(tmp_path: Path) -> None:
    place = block(tmp_path, "old.bin", age=86_401).parent
    tended = Tended(folder=str(tmp_path), bytes=10**6)
    tend(tended, now=NOW)
    tend(tended, now=place.stat().st_mtime + 599)
    assert place.exists()
    for _ in range(5):  # each leaves the one that it lay in empty
        tend(tended, now=time.time() + 601)
    assert list(tmp_path.iterdir()) == []


def test_what_a_model_of_before_left_is_tended_and_nothing_else_is(tmp_path: Path) -> None:
    before = block(tmp_path, "a.bin", age=5)
    (tmp_path / "gpu-2").mkdir()
    now = block(tmp_path, "b.bin", age=1).rename(tmp_path / "gpu-2" / "b.bin")
    ours = tmp_path / "0123abcd" / "c.bin"
    ours.parent.mkdir()
    ours.write_bytes(bytes(100))
    assert tend(Tended(folder=str(tmp_path), bytes=100), now=NOW) == 100
    assert [each.exists() for each in (before, now, ours)] == [False, True, True]


def test_a_folder_that_is_not_there_is_in_bounds(tmp_path: Path) -> None:
    assert tend(Tended(folder=str(tmp_path / "none"), bytes=0)) == 0


def test_it_is_looked_after_at_once_and_is_nobody_elses(tmp_path: Path) -> None:
    path = block(tmp_path / "kv", "a.bin", age=0)
    tender = Tender(Tended(folder=str(tmp_path / "kv"), bytes=50))
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    tender.close()
    assert not path.exists()
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700
