"""`senryu compare` on two tiny folders, without the engine: what it prints, writes and returns."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from senryu.quant.compare.cli import main, tell
from senryu.quant.compare.comparison import Comparison
from senryu.server.manifest import Manifest

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
QUIET = ["--no-speech", "--no-speed"]


@pytest.fixture
def candidate(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[1], tmp_path / "candidate"))


def gate(folder: Path, text: str) -> list[str]:
    (folder / "gate.toml").write_text(text)
    return ["--gate", "--recipe", str(folder / "gate.toml")]


def test_a_folder_that_keeps_its_bounds_may_be_served(
    folders: tuple[Path, Path], candidate: Path, source: Path, tmp_path: Path, capsys: Any
) -> None:
    bounds = "[bounds]\nkl = 9\nperplexity_ratio = 9\nagreement = 0\nsize_ratio = 1\n"
    words = [str(folders[0]), str(candidate), "--samples", str(source), *QUIET]
    assert main([*words, *gate(tmp_path, bounds)]) == 0
    out = capsys.readouterr().out
    assert "KL, nats a token" in out
    assert "It keeps all bounds" in out
    assert out.strip().endswith("report.html")
    told = json.loads((candidate / "report.json").read_text())
    assert told["held_out"]["tokens"] > 50
    assert set(told["held_out"]["kinds"]) == {"chat", "tools"}
    assert 4 < told["candidate"]["weight_bits"] < 5
    assert told["parent"]["weight_bits"] == 16
    assert told["broken"] == []
    made = Manifest.read(candidate)
    assert made
    assert made.servable is True
    made.verify(candidate)


def test_a_folder_that_breaks_a_bound_is_marked(
    folders: tuple[Path, Path], candidate: Path, source: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [str(folders[0]), str(candidate), "--samples", str(source), *QUIET]
    strict = gate(tmp_path, "[bounds]\nkl = 0\ntool_validity_drop = 1\n")
    assert main([*words, "--out", str(tmp_path / "report"), *strict]) == 3
    told = capsys.readouterr().err
    assert "Not to be served: the KL to the parent is" in told
    assert "the drop in valid tool calls was not measured" in told
    assert (tmp_path / "report" / "report.html").exists()
    assert not (candidate / "report.html").exists()
    made = Manifest.read(candidate)
    assert made
    assert made.servable is False
    assert made.refused_because
    assert "above the bound of 0" in made.refused_because


def test_what_cannot_be_compared_is_a_sentence(
    folders: tuple[Path, Path], source: Path, tmp_path: Path, capsys: Any
) -> None:
    parent, small = map(str, folders)
    samples = ["--samples", str(source), *QUIET]
    assert main([parent, parent, *samples]) == 1
    assert "compared with itself" in capsys.readouterr().err
    assert main([small, parent, *samples]) == 1
    assert "name the 16-bit folder first" in capsys.readouterr().err
    assert main([parent, str(tmp_path / "none"), *samples]) == 1
    assert "not a model folder" in capsys.readouterr().err
    assert main([parent, small, "--recipe", str(tmp_path / "none.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_wrong_words_are_status_2(capsys: Any) -> None:
    assert main(["only-one"]) == 2
    assert main([]) == 0
    assert "PARENT" in capsys.readouterr().out


def test_a_first_look_is_no_verdict(capsys: Any) -> None:
    assert main(["a", "b", "--quick", "--gate"]) == 2
    assert "leave --quick out" in capsys.readouterr().err


def test_what_would_come_too_late_is_said_before(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    words = [str(tmp_path / "parent"), str(tmp_path)]
    assert main([*words, "--gate"]) == 1
    assert "no manifest that a verdict" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "config.json")]) == 1
    assert "name another folder with --out" in capsys.readouterr().err


def test_a_full_disk_costs_neither_table_nor_verdict(
    found: Comparison, folders: tuple[Path, Path], candidate: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    judged = dataclasses.replace(found, broken=("the KL is 3",))
    assert tell(judged, candidate, tmp_path / "file") == 3
    told = capsys.readouterr()
    assert "KL, nats a token" in told.out
    assert "report cannot be written" in told.err
    made = Manifest.read(candidate)
    assert made
    assert made.servable is False
