"""The bench takes turns, and tells medians and their ratio."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senryu.benches import against_trl


class Workers:
    """Trainers in processes of their own that are none: TRL takes twice the time, then four
    times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        # As this bench sees it; others who start programs are left alone.
        seen = SimpleNamespace(**vars(subprocess) | {"run": self._run})
        monkeypatch.setattr(against_trl, "subprocess", seen)

    def _run(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert how["check"]
        self.commands.append(command)
        took = 1.0 if command[-1] == "senryu" else float(len(self.commands))
        told = {"tokens": 1000, "seconds": took, "steps": 3, "precision": "float32"}
        return subprocess.CompletedProcess(command, 0, f"words\n{json.dumps(told)}\n")


def test_trainers_take_turns_and_the_medians_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = Workers(monkeypatch)
    assert against_trl.main(["a/run", "--samples", "8"]) == 0
    command = [sys.executable, "-m", "senryu.benches.against_trl", "a/run", "--samples", "8"]
    assert workers.commands == [[*command, "--only", each] for each in ("senryu", "trl") * 2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["senryu", "1000"],
        ["trl", "500"],
        ["senryu", "1000"],
        ["trl", "250"],
    ]
    assert lines[4] == "senryu is 2.67 times as fast"
    told = json.loads(lines[-1])
    assert told["tokens_per_second"] == {"senryu": [1000, 1000], "trl": [500, 250]}
    assert told["ratio"] == pytest.approx(1000 / 375)
    assert set(told["versions"]) == {"torch", "transformers", "trl"}


def test_a_worker_does_one_trainer_and_says_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, int]] = []

    def trainer(run: Path, count: int) -> dict[str, Any]:
        asked.append((run, count))
        return {"tokens": 5, "seconds": 1.0}

    monkeypatch.setitem(against_trl.TRAINERS, "trl", trainer)
    assert against_trl.main(["a/run", "--only", "trl"]) == 0
    assert asked == [(Path("a/run"), 64)]
    assert json.loads(capsys.readouterr().out) == {"tokens": 5, "seconds": 1.0}


@pytest.mark.parametrize("words", [[], ["a/run", "--only", "nobody"], ["a/run", "--rounds", "x"]])
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        against_trl.main(words)
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_are_padded_behind_with_nothing_to_learn() -> None:
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [8], "labels": [8]},
    ]
    told = {name: value.tolist() for name, value in against_trl._padded(rows, 3).items()}
    assert told == {
        "input_ids": [[5, 6, 7], [8, 3, 3]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
    }
