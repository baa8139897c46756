"""What the harness cannot do is said in a sentence, and never fails a run."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from senryu.distill.harness import Scores, run_harness


def installed(monkeypatch: pytest.MonkeyPatch, simple_evaluate: Any, model: Any = None) -> None:
    """A stand-in for the package, whose results have the shape of the real one's."""
    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models")
    huggingface = ModuleType("lm_eval.models.huggingface")
    huggingface.HFLM = model or SimpleNamespace  # type: ignore[attr-defined]
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    for each in (package, models, huggingface):
        monkeypatch.setitem(sys.modules, each.__name__, each)


def test_no_tasks_are_no_scores(tmp_path: Path) -> None:
    assert run_harness(tmp_path, ()) == Scores()


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    told = run_harness(tmp_path, ("arc_easy",))
    assert not told.values
    assert "not installed" in told.note
    assert "pip install lm-eval" in told.note


def test_a_task_without_its_data_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simple_evaluate(*, model: Any, tasks: list[str], limit: int | None) -> dict[str, Any]:
        if tasks == ["far_away"]:
            raise ConnectionError("no network\nand much more")
        scores = {"alias": "near", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 1}
        return {"results": {"near": scores}}

    installed(monkeypatch, simple_evaluate)
    told = run_harness(tmp_path, ("far_away", "near"))
    assert told.values == {"near, acc": 0.5, "near, em,strict": 1.0}
    assert told.note == "Not run: far_away (ConnectionError: no network)."


def test_a_student_that_it_cannot_open_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("no such architecture.")

    installed(monkeypatch, None, refuse)
    told = run_harness(tmp_path, ("near",))
    assert told.note.endswith("could not open the student: ValueError: no such architecture.")
