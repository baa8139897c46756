"""Promises of `quant/once.py`: a folder is complete or not there, whoever makes it and dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from senryu.quant.once import damage, make_once
from senryu.server.manifest import Manifest, record_files

from .conftest import Recorder

MAKER = """
import sys, time
from pathlib import Path
from senryu.quant.once import make_once
from senryu.quant.progress import Bar
from senryu.server.manifest import Manifest, record_files

def fill(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    (folder / "weights").write_text("half")
    time.sleep(float(sys.argv[3]))
    (folder / "weights").write_text("whole")
    Manifest(
        model_id="a", display_name="a", source="a", licence=None, scheme="a", group_size=None,
        parameters=None, created_at=None, files=record_files(folder),
    ).write(folder)

print(make_once(Path(sys.argv[1]), fill, Bar()))
"""


def start(final: Path, log: Path, seconds: float) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", MAKER, str(final), str(log), str(seconds)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=final.anchor
    )


def wait_for(happened: Path) -> None:
    deadline = time.monotonic() + 20
    while not happened.exists():
        assert time.monotonic() < deadline, f"{happened} did not appear"
        time.sleep(0.01)


def fill(folder: Path) -> None:
    (folder / "weights").write_text("whole")
    Manifest(
        model_id="a",
        display_name="a",
        source="a",
        licence=None,
        scheme="a",
        group_size=None,
        parameters=None,
        created_at=None,
        files=record_files(folder),
    ).write(folder)


def never(folder: Path) -> None:
    raise AssertionError("a whole folder must not be made again")


def test_two_processes_make_one_model_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    final, log = tmp_path / "model", tmp_path / "log"
    first = start(final, log, seconds=2)
    wait_for(log)
    second = start(final, log, seconds=2)
    said = [process.communicate(timeout=30) for process in (first, second)]
    assert [out.strip() for out, _ in said] == [str(final), str(final)]
    assert log.read_text() == "made\n"
    assert "Another process is preparing model; waiting" in said[1][1]
    assert "waiting" not in said[0][1]


def test_a_process_killed_half_way_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    final, log = tmp_path / "model", tmp_path / "log"
    killed = start(final, log, seconds=60)
    wait_for(log)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=10)
    assert not final.exists()
    assert list(tmp_path.glob(".model.*.partial"))
    recorder = Recorder()
    assert make_once(final, fill, recorder) == final
    assert (final / "weights").read_text() == "whole"
    assert not list(tmp_path.glob(".model.*.partial"))
    assert recorder.sentences == []


def test_a_finished_folder_is_not_made_again(tmp_path: Path, recorder: Recorder) -> None:
    make_once(tmp_path / "model", fill, recorder)
    assert make_once(tmp_path / "model", never, recorder) == tmp_path / "model"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, recorder: Recorder) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "model", fail, recorder)
    assert [each.name for each in tmp_path.iterdir()] == [".model.lock"]


def test_a_shortened_file_is_named_and_the_model_made_again(
    tmp_path: Path, recorder: Recorder
) -> None:
    final = make_once(tmp_path / "model", fill, recorder)
    (final / "weights").write_text("who")
    assert damage(final) == f"{final / 'weights'} is damaged (3 bytes instead of 5)."
    make_once(final, fill, recorder)
    assert recorder.sentences == [
        f"{final / 'weights'} is damaged (3 bytes instead of 5). Preparing it again."
    ]
    assert damage(final) is None
    assert sorted(each.name for each in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_damaged_manifest_means_the_model_is_made_again(
    tmp_path: Path, recorder: Recorder
) -> None:
    final = make_once(tmp_path / "model", fill, recorder)
    (final / "senryu.json").write_text("{")
    make_once(final, fill, recorder)
    assert "senryu.json is damaged" in recorder.sentences[0]
    assert damage(final) is None


def test_a_folder_without_a_manifest_counts_as_half_made(
    tmp_path: Path, recorder: Recorder
) -> None:
    (tmp_path / "model").mkdir()
    make_once(tmp_path / "model", fill, recorder)
    assert recorder.sentences == [
        f"The model folder {tmp_path / 'model'} is not complete. Preparing it again."
    ]


def test_everyone_who_may_read_the_folder_may_read_its_files(
    tmp_path: Path, recorder: Recorder
) -> None:
    def private(folder: Path) -> None:
        fill(folder)
        (folder / "weights").chmod(0o600)

    final = make_once(tmp_path / "model", private, recorder)
    assert (final / "weights").stat().st_mode & 0o777 == final.stat().st_mode & 0o666
