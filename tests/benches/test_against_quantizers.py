"""The bench hands every quantizer the same rows and tells what their folders lost."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senryu.benches import against_quantizers
from senryu.benches.against_quantizers import PROGRAMS, QUANTIZERS

FIGURE = {"value": 0.25, "low": 0.2, "high": 0.3}
LOSS = {"kl": FIGURE, "agreement": FIGURE, "perplexity_ratio": 1.1, "tokens": 90}


class Machine:
    """Where programs only write down what they are asked, and nothing is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.measured: dict[str, Path] = {}
        self.breaks = ""
        seen = SimpleNamespace(**vars(subprocess) | {"run": self._run})
        monkeypatch.setattr(against_quantizers, "subprocess", seen)
        monkeypatch.setattr(against_quantizers, "_tokens", self._tokens)
        monkeypatch.setattr(against_quantizers, "_losses", self._losses)

    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Program and words of each run that was no installation."""
        return [
            (Path(each[1]).name, json.loads(each[2]))
            for each in self.commands
            if each[1].endswith(".py")
        ]

    def installed(self) -> list[list[str]]:
        return [each[5:] for each in self.commands if each[1:4] == ["-m", "pip", "install"]]

    def _run(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert how["check"]
        self.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir(parents=True)
        if self.breaks and self.breaks in command[1]:
            raise subprocess.CalledProcessError(1, command[:2])
        said = json.dumps({"seconds": 90.0, "peak_bytes": 2**30})
        return subprocess.CompletedProcess(command, 0, f"words\n{said}\n")

    def _tokens(self, arguments: Any, parent: Path, scratch: Path) -> tuple[Path, list[Any], Any]:
        return scratch / "rows.npy", [], {"bench": "against_quantizers"}

    def _losses(self, parent: Path, folders: dict[str, Path], passages: list[Any]) -> Any:
        self.measured = dict(folders)
        return [(name, LOSS) for name in folders]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--parent", "a/parent", "--environments", str(tmp_path / "envs"), *more]


def test_all_are_asked_for_the_same(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert against_quantizers.main(words(tmp_path, "--symmetric", "--iterations", "5")) == 0
    asked = machine.asked()
    assert [program for program, _ in asked] == [each.program for each in QUANTIZERS.values()]
    for key, value in {"group": 32, "symmetric": True, "iterations": 5}.items():
        assert {told[key] for _, told in asked} == {value}
    assert len({told["rows"] for _, told in asked}) == 1
    assert len({told["out"] for _, told in asked}) == len(QUANTIZERS)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[2] == "| rtn | 0.2500 (0.2000 to 0.3000) | 25.0% (20.0% to 30.0%) | 1.5 | 1.00 GiB |"
    )
    told = json.loads(lines[-1])
    assert set(told["results"]) == set(QUANTIZERS)
    assert told["results"]["gptq"]["seconds"] == 90.0


def test_others_have_an_environment_of_their_own_made_once(
    machine: Machine, tmp_path: Path
) -> None:
    for _ in range(2):
        assert against_quantizers.main(words(tmp_path)) == 0
    installed = machine.installed()
    assert len(installed) == 2
    for packages in installed:
        assert packages[0].startswith("torch==")
        assert "+" not in packages[0]
    assert installed[1][1:] == ["llmcompressor==0.14.0.1"]
    pythons = {Path(each[1]).name: each[0] for each in machine.commands if each[1][-3:] == ".py"}
    assert pythons["with_senryu.py"] == sys.executable
    assert str(tmp_path / "envs" / "autoround") in pythons["with_autoround.py"]


def test_one_that_breaks_does_not_cost_the_others(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.breaks = "with_autoround"
    assert against_quantizers.main(words(tmp_path)) == 1
    assert set(machine.measured) == set(QUANTIZERS) - {"autoround"}
    assert "autoround gave no folder" in capsys.readouterr().out


def test_a_folder_of_qad_is_measured_beside_them(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert against_quantizers.main(words(tmp_path, "--only", "rtn", "--qad", "a/qad")) == 0
    assert machine.measured["qad"] == Path("a/qad")
    assert "| qad | 0.2500 (0.2000 to 0.3000) | 25.0% (20.0% to 30.0%) | - | - |" in (
        capsys.readouterr().out
    )


def test_programs_of_others_know_nothing_of_senryu() -> None:
    """They run where it is not installed."""
    for each in QUANTIZERS.values():
        text = (PROGRAMS / each.program).read_text()
        assert ("import senryu" in text or "from senryu" in text) == (not each.packages)


@pytest.mark.parametrize("told", [["--only", "nobody"], ["--group", "16"], ["--tokens", "x"]])
def test_wrong_words_are_refused(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        against_quantizers.main(told)
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err
