"""The pipeline is the commands that a person would type, in order, and one line of figures."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senryu.benches import pipeline
from senryu.benches.cpu_defaults import Speed

SPEED = Speed(
    name="student",
    ready_s=5.0,
    alone_tok_s=60.0,
    eight_tok_s=200.0,
    ttft_500_s=0.5,
    rounds={"alone": [60.0]},
)


def only(run: Any) -> SimpleNamespace:
    """The module as this bench sees it; others who start programs are left alone."""
    return SimpleNamespace(**vars(subprocess) | {"run": run})


class Stages:
    """`senryu`, which only writes down what it is told to do; each stage takes ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[list[str]] = []
        self.served: list[dict[str, str]] = []
        self.says = {"distill": '{"kl_after": 1.5}', "quantize": ""}
        self.status = {"distill": 0, "quantize": 0}
        self._now = 0.0
        monkeypatch.setattr(pipeline, "subprocess", only(self._run))
        monkeypatch.setattr(pipeline, "measure", self._measure)
        monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: self._now))

    def _run(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "senryu.server"]
        assert how == {"stdout": subprocess.PIPE, "text": True, "check": True}
        stage, words = command[3], command[4:]
        self.told.append([stage, *words])
        self._now += 10.04
        if self.status[stage]:
            raise subprocess.CalledProcessError(self.status[stage], command)
        out = Path(words[words.index("--out") + 1])
        folder = out / "student" if stage == "distill" else out
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "weights").write_bytes(bytes(100 if stage == "distill" else 25))
        said = self.says[stage] or f"{out}\n"
        return subprocess.CompletedProcess(command, 0, f"Some words before.\n{said}\n")

    def _measure(self, name: str, environment: dict[str, str]) -> Speed:
        self.served.append(environment)
        self._now += 10.04
        return SPEED


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


def test_the_stages_are_done_in_order_each_on_what_the_one_before_left(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert pipeline.main(["my.toml", "--out", str(out)]) == 0
    student, packed = str(out / "distill" / "student"), str(out / "student-w4a16")
    assert stages.told == [
        ["distill", "my.toml", "--out", str(out / "distill")],
        ["quantize", student, "--calibration", str(out / "distill"), "--out", packed],
    ]
    assert stages.served == [{"SENRYU_MODEL": packed}]
    told = capsys.readouterr()
    assert [line.partition(":")[0] for line in told.err.splitlines() if ": senryu" in line] == [
        "distill",
        "quantize",
        "serve and measure",
    ]


def test_the_last_line_has_the_figures_of_all_stages(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline.main(["--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bench"] == "pipeline"
    assert told["machine"]
    assert told["distill"] == {"seconds": 10.0, "kl_after": 1.5}
    assert told["quantize"]["folder"] == str(tmp_path / "student-w4a16")
    assert (told["quantize"]["bytes_before"], told["quantize"]["bytes"]) == (102, 27)
    assert told["serve"]["alone_tok_s"] == 60.0
    assert told["seconds"] == sum(told[stage]["seconds"] for stage in pipeline.STAGES) == 30.0


@pytest.mark.parametrize(
    ("stage", "status", "ends", "done"),
    [("distill", 2, 2, 1), ("quantize", 1, 1, 2), ("quantize", -9, 137, 2)],
)
def test_a_stage_that_fails_ends_it_with_its_status(
    stages: Stages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    status: int,
    ends: int,
    done: int,
) -> None:
    """One that was killed has no status of its own: it is told as a shell does."""
    stages.status[stage] = status
    assert pipeline.main(["--out", str(tmp_path)]) == ends
    assert len(stages.told) == done
    assert not stages.served
    assert capsys.readouterr().out == ""


def test_a_stage_that_says_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = only(lambda command, **_: subprocess.CompletedProcess(command, 0, " \n"))
    monkeypatch.setattr(pipeline, "subprocess", quiet)
    assert pipeline.main(["my.toml", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    last = told.err.splitlines()[-1]
    assert last.startswith("The stage 'distill' ended without saying what it made")
    assert f"`senryu distill my.toml --out {tmp_path / 'distill'}`" in last


def test_a_student_that_cannot_be_served_is_said(
    stages: Stages,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the server did not start; the lines above say why")

    monkeypatch.setattr(pipeline, "measure", fail)
    assert pipeline.main(["--out", str(tmp_path)]) == 1
    assert "could not be served: the server did not start" in capsys.readouterr().err
