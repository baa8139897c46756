"""`senryu doctor` on a machine where all is well, and on one where it is not."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "senryu.server", "doctor", *flags],
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_doctor_checks_a_real_generation_and_the_prefix_cache() -> None:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    report = doctor()
    assert report.returncode == 0, report.stdout + report.stderr
    assert "Paris" in report.stdout
    assert "prompt tokens came from the cache the second time" in report.stdout
    assert "all is well" in report.stdout


def test_the_doctor_fails_with_a_sentence_when_there_is_no_model() -> None:
    report = doctor("--model", "/nowhere/at/all")
    assert report.returncode == 1
    assert "There is no model folder /nowhere/at/all" in report.stdout
    assert "something is off" in report.stdout
