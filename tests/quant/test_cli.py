"""Promises of the quant and distill doors: light, honest about what is not there yet."""

import subprocess
import sys
import time

import pytest

from senryu.distill.cli import main as distill
from senryu.quant.cli import main as quant


@pytest.mark.parametrize("words", [["some/model"], ["--to", "int4"], ["some/model", "--help"]])
def test_quantize_says_what_it_cannot_do_yet(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("senryu quantize is not built yet: ")
    assert err.count("\n") == 1


def test_distill_says_what_will_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert distill([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("senryu distill is not built yet: ")


@pytest.mark.parametrize("words", [[], ["--help"], ["embedded", "--help"]])
def test_help_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(words) == 0
    assert "embedded" in capsys.readouterr().out
    assert distill(["--help"]) == 0


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
