"""The bench hands every quantizer the same rows and tells what their folders lost."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senryu.benches import against_quantizers, environments
from senryu.benches.against_quantizers import PROGRAMS, QUANTIZERS
from senryu.quant.errors import QuantizeError

FIGURE = {"value": 0.25, "low": 0.2, "high": 0.3}
LOSS = {"kl": FIGURE, "agreement": FIGURE, "perplexity_ratio": 1.1, "tokens": 90}
SAID = {"seconds": 90.0, "peak_bytes": 2**30, "versions": {"torch": "2"}}
REAL_LOSSES = against_quantizers._losses


class Machine:
    """Where programs only write down what they are asked, and nothing is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.measured: dict[str, Path] = {}
        self.breaks = ""
        self.unreadable = ""
        self.says = f"words\n{json.dumps(SAID)}\n"
        self.torch, self.uv = "2.13.0+cpu", ""
        self.pip = "global.find-links='/a /b'\n:env:.find-links='/a'\n:env:.timeout='9'\n"
        seen = SimpleNamespace(**vars(subprocess) | {"run": self._run})
        monkeypatch.setattr(against_quantizers, "subprocess", seen)
        monkeypatch.setattr(environments, "subprocess", seen)
        monkeypatch.setattr(
            environments,
            "metadata",
            SimpleNamespace(version=lambda name: self.torch),
        )
        found = SimpleNamespace(
            **vars(shutil) | {"which": lambda name, path: self.uv or None},
        )
        monkeypatch.setattr(environments, "shutil", found)
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
        return [each for each in self.commands if "install" in each]

    def _run(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert how["check"]
        self.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir(parents=True)
        if self.breaks and self.breaks in command[1]:
            raise subprocess.CalledProcessError(1, command[:2])
        if command[1:] == ["-m", "pip", "config", "list"]:
            return subprocess.CompletedProcess(command, 0, self.pip)
        return subprocess.CompletedProcess(command, 0, self.says)

    def _tokens(self, arguments: Any, parent: Path, scratch: Path) -> tuple[Path, list[Any], Any]:
        return scratch / "rows.npy", [], {"bench": "against_quantizers"}

    def _losses(self, parent: Path, folders: dict[str, Path], passages: list[Any]) -> Any:
        self.measured = dict(folders)
        problem = QuantizeError("no model")
        return [(name, problem if name == self.unreadable else LOSS) for name in folders]


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
    assert told["results"]["autoround"]["versions"] == SAID["versions"]
    assert told["failed"] == {}


def test_others_have_an_environment_of_their_own_made_once(
    machine: Machine, tmp_path: Path
) -> None:
    for _ in range(2):
        assert against_quantizers.main(words(tmp_path)) == 0
    installed = machine.installed()
    assert len(installed) == 2
    assert installed[1][-2:] == ["torch==2.13.0+cpu", "llmcompressor==0.14.0.1"]
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


@pytest.mark.parametrize("said", ["", "words", "[]", "{}", '{"seconds": 1}'])
def test_one_that_does_not_say_what_it_cost_does_not_cost_the_others(
    said: str, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.says = said
    assert against_quantizers.main(words(tmp_path, "--only", "rtn", "--qad", "a/qad")) == 1
    assert set(machine.measured) == {"qad"}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"].keys() == {"rtn"}


@pytest.mark.parametrize("after", ["", "bye", "\n", "{", "0", '{"bye": 1}', "null"])
def test_libraries_may_print_behind_what_a_program_says(
    after: str, machine: Machine, tmp_path: Path
) -> None:
    machine.says += after
    assert against_quantizers.main(words(tmp_path)) == 0
    assert set(machine.measured) == set(QUANTIZERS)


def test_a_folder_that_cannot_be_read_does_not_cost_the_others(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.unreadable = "llm-compressor"
    assert against_quantizers.main(words(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "llm-compressor gave a folder that cannot be measured: no model" in out
    told = json.loads(out.splitlines()[-1])
    assert told["failed"] == {"llm-compressor": "no model"}
    assert set(told["results"]) == set(QUANTIZERS) - {"llm-compressor"}


def test_what_reading_a_folder_refuses_is_told_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from senryu.distill.compare import Figure
    from senryu.quant import restore
    from senryu.quant.compare import measures

    def opened(folder: Path) -> Path:
        if folder.name == "broken":
            raise QuantizeError("broken")
        return folder

    figure = Figure(value=0.1, low=None, high=None)
    row = SimpleNamespace(kl=figure, agreement=figure, perplexity_ratio=1.0, tokens=9)
    told = SimpleNamespace(all=row)
    monkeypatch.setattr(restore, "restore", opened)
    monkeypatch.setattr(measures, "measure", lambda whole, other, passages: told)
    folders = {"broken": Path("broken"), "whole": Path("whole")}
    lost = dict(REAL_LOSSES(Path("parent"), folders, []))
    assert isinstance(lost["broken"], QuantizeError)
    assert lost["whole"]["kl"]["value"] == 0.1


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [("2.13.0+cpu", "2.13.0+cpu"), ("2.13.0+cu130", "2.13.0"), ("2.13.0", "2.13.0")],
)
def test_an_environment_gets_the_torch_that_we_run_on(
    ours: str, wanted: str, machine: Machine, tmp_path: Path
) -> None:
    machine.torch = ours
    environments.python_with(["a==1"], tmp_path / "env")
    assert machine.installed()[0][-2:] == [f"torch=={wanted}", "a==1"]


def test_an_environment_is_told_where_our_own_wheels_lie(machine: Machine, tmp_path: Path) -> None:
    environments.python_with([], tmp_path / "env")
    (command,) = machine.installed()
    assert command[command.index("--find-links") :][:4] == [
        *("--find-links", "/a"),
        *("--find-links", "/b"),
    ]


@pytest.mark.parametrize(("ours", "asks"), [("2.13.0+cpu", True), ("2.13.0", False)])
def test_uv_is_asked_for_the_build_for_a_cpu_where_no_folder_has_it(
    ours: str, asks: bool, machine: Machine, tmp_path: Path
) -> None:
    machine.torch, machine.uv, machine.pip = ours, "/bin/uv", ""
    environments.python_with([], tmp_path / "env")
    (command,) = machine.installed()
    assert (command[0] == "/bin/uv") == asks
    assert (command[-3:-1] == ["--torch-backend", "cpu"]) == asks
    assert str(tmp_path / "env" / "bin" / "python") in command


def test_programs_take_autorounds_settings_from_our_scheme() -> None:
    """A bench of other settings would be one of another scheme."""
    scheme = (PROGRAMS.parents[1] / "quant" / "schemes" / "autoround.py").read_text()
    program = (PROGRAMS / "with_autoround.py").read_text()
    for setting in ('scheme="W4A16"', 'scale_dtype="bf16"', "enable_torch_compile=False"):
        assert setting in scheme
        assert setting in program


def test_the_versions_of_our_own_program_are_known() -> None:
    from senryu.benches.quantizers import with_senryu

    assert with_senryu.versions()["torch"] == metadata.version("torch")


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
