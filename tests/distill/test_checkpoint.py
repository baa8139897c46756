"""A checkpoint is complete or not there, and a damaged one costs only what came after the one
before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.distill import checkpoint


def state(number: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((3,), float(number))}, "tokens": number}


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(folder, step, state(step), {"nature": {"seed": 1}})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    step, told, about = found
    assert (step, told["tokens"], about["nature"]) == (5, 5, {"seed": 1})
    assert told["weights"]["w"].tolist() == [5.0] * 3


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15, 20)
    assert checkpoint.steps(tmp_path) == [15, 20]


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, pytest.fail) is None
    assert checkpoint.newest(tmp_path / "missing", pytest.fail) is None


@pytest.mark.parametrize("harm", ["flip", "cut", "state", "about", "empty"])
def test_a_damaged_one_is_passed_over_and_that_is_said(tmp_path: Path, harm: str) -> None:
    saved(tmp_path, 5, 10)
    file = tmp_path / "step-00000010" / "state.pt"
    about = file.with_name("about.json")
    match harm:
        case "flip":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "cut":
            file.write_bytes(file.read_bytes()[:100])
        case "state":
            file.unlink()
        case "about":
            about.unlink()
        case "empty":
            about.write_text("")
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None
    assert found[0] == 5
    assert len(said) == 1
    assert "step-00000010 is damaged" in said[0]


def test_when_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / "step-00000005" / "state.pt").write_bytes(b"")
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) is None
    assert said


def test_what_a_killed_run_left_half_written_is_never_read(tmp_path: Path) -> None:
    """And is removed by the next save."""
    saved(tmp_path, 5)
    half = tmp_path / ".step-00000010.partial"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found[0] == 5
    saved(tmp_path, 10)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-00000005", "step-00000010"]


def test_a_save_that_fails_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives the room back that it had taken."""
    saved(tmp_path, 5)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        saved(tmp_path, 10)
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000005"]


def test_a_step_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    checkpoint.save(tmp_path, 5, state(7), {})
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found[1]["tokens"] == 7
