"""Promises of the quant door: light, and honest in its exit status."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from senryu.quant.cli import main as quant


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["some/model"], "give --out DIR"),
        (["some/model", "--out", "x", "--scheme", "bf16"], "w4a16 only"),
        (["--to", "int4"], "MODEL"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant(words) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_holds_no_model_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{tmp_path} is not a model folder")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr("senryu.quant.folder.quantize_folder", fail)
    assert quant([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err.strip()
    assert err.count("\n") == 0
    assert "No space left on device" in err
    assert "make room" in err


@pytest.mark.parametrize("words", [[], ["--help"], ["embedded", "--help"]])
def test_help_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(words) == 0
    assert "embedded" in capsys.readouterr().out


def test_an_unknown_scheme_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(["embedded", "--scheme", "int3"]) == 2
    err = capsys.readouterr().err
    assert "w4a16" in err
    assert "bf16" in err


@pytest.mark.parametrize("room", ["quant", "distill"])
def test_help_opens_no_heavy_door(room: str) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"senryu.{room}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - started < 2  # 0.1 s on a quiet machine
    assert not [line for line in done.stderr.splitlines() if line.endswith(" torch")]
