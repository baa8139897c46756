"""The record of an evaluation survives the disk, or says in a sentence that it did not."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from senryu.distill.compare import Figure
from senryu.distill.errors import DistillError
from senryu.distill.evaluation import (
    Evaluation,
    Measures,
    Row,
    RunFacts,
    Share,
    Speech,
    Spoken,
    read_beside,
    shown,
    write_text,
)

FACTS = RunFacts(
    name="ours", student="s", teacher="t", licence="Apache-2.0", terms="It says so.", versions={}
)
ROWS = (
    Row(id="a", kind="chat", tokens=10, surprise=20.0, own_surprise=5.0, compared=8, kl=4.0),
    Row(id="b", kind="tools", tokens=30, surprise=30.0, own_surprise=5.0, compared=30, kl=15.0),
)
SPOKEN = Spoken(
    id="a",
    kind="tools",
    source="self",
    asked="How is the weather?",
    teacher="[calls]",
    student="<tool_call>",
    tokens=4,
    ended=True,
)


def evaluation(**changed: object) -> Evaluation:
    told = Evaluation(
        run=FACTS,
        samples_digest="d",
        after=Measures(rows=ROWS, over="vocabulary"),
        before=Measures(rows=tuple(replace(row, kl=2 * row.kl) for row in ROWS), over="vocabulary"),
        speech=Speech(answers=(SPOKEN,)),
        harness={"arc, acc": 0.25},
    )
    return replace(told, **changed)  # type: ignore[arg-type]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    told = evaluation(harness_note="<é>\n")
    told.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == told
    assert not list(tmp_path.glob("*partial"))


def test_others_find_the_main_figures_in_the_file(tmp_path: Path) -> None:
    evaluation().write(tmp_path / "evaluation.json")
    told = json.loads((tmp_path / "evaluation.json").read_text())["summary"]
    assert told["kl_after"]["value"] == 19 / 38
    assert told["kl_relative"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert told["perplexity_teacher"]["value"] == pytest.approx(math.exp(10 / 40))
    assert (told["kl_over"], told["samples"], told["tokens"]) == ("vocabulary", 2, 40)


def test_a_figure_without_bounds_survives_the_disk(tmp_path: Path) -> None:
    row = replace(ROWS[0], surprise=1e9)
    told = evaluation(after=Measures(rows=(row,), over="vocabulary"), before=None)
    assert told.after.perplexity == Figure(math.inf)
    told.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ('{"format": 1', "is damaged"),
        ("[]", "is not of format 1"),
        ('{"format": 2}', "is not of format 1"),
        ('{"format": 1, "run": {}}', "is damaged (run."),
        ("\xff", "is damaged"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "evaluation.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DistillError) as refused:
        Evaluation.read(file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)
    assert "delete it and evaluate that run again" in str(refused.value)


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    evaluation().write(file)
    file.write_text(file.read_text().replace('"kind": "tools"', '"kind": "psychic"'))
    with pytest.raises(DistillError, match=r"rows\.1\.kind"):
        Evaluation.read(file)


def test_a_folder_that_was_never_evaluated_is_no_neighbour(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="name a folder that a run has evaluated"):
        read_beside([tmp_path / "nowhere"], "d", "vocabulary")


def test_a_neighbour_that_was_compared_over_something_else_is_refused(tmp_path: Path) -> None:
    evaluation().write(tmp_path / "evaluation.json")
    assert read_beside([tmp_path], "d", "vocabulary") == (evaluation(),)
    with pytest.raises(DistillError, match="over the whole vocabulary and this run is over the st"):
        read_beside([tmp_path], "d", "stored")


def test_turns_of_one_conversation_are_one_case() -> None:
    """Ten turns of one task tell no more of other tasks than the task does."""
    turns = [replace(ROWS[0], id=f"a-{number}", kl=number) for number in range(10)]
    other = replace(ROWS[1], id="b-0")
    told = Measures(rows=(*turns, other), over="vocabulary").kl
    whole = replace(ROWS[0], id="a-0", compared=80, kl=45.0)
    assert told == Measures(rows=(whole, other), over="vocabulary").kl
    assert Measures(rows=tuple(turns), over="vocabulary").kl == Figure(45 / 80)


def test_one_task_alone_has_no_interval() -> None:
    told = shown(Measures(rows=ROWS[:1], over="vocabulary").kl)
    assert told == "0.500 (interval not known)"


def test_kinds_are_told_apart() -> None:
    told = Measures(rows=ROWS, over="vocabulary")
    assert told.kinds == ("chat", "tools")
    assert told.of("tools").kl == Figure(0.5)
    assert told.of("thinking").kl is None
    assert told.of(None) is told


def test_without_the_teacher_its_own_perplexity_is_not_known() -> None:
    told = Measures(rows=(ROWS[0], replace(ROWS[1], own_surprise=None)), over="stored")
    assert told.own_perplexity is None


def test_shares_are_of_what_could_have_been() -> None:
    answers = (
        SPOKEN,
        replace(SPOKEN, should_call=True, called=True, call_valid=True, same_names=True),
        replace(SPOKEN, should_call=True, called=True, ended=False),
        replace(SPOKEN, kind="thinking", thought_valid=False),
    )
    told = Speech(answers=answers)
    assert told.ended == Share(3, 4)
    assert told.calls_made == Share(2, 2)
    assert told.calls_valid == Share(1, 2)
    assert told.same_names == Share(1, 2)
    assert told.same_calls == Share(0, 2)
    assert told.thoughts_valid == Share(0, 1)
    assert str(told.calls_valid) == "1 of 2"


def test_figures_are_shown_with_their_interval() -> None:
    assert shown(Figure(0.5, 0.4, 0.61)) == "0.500 (0.400 to 0.610)"
    assert shown(Figure(0.5, 0.4, 0.61), 1, scale=100) == "50.0 (40.0 to 61.0)"
    assert shown(Figure(24_036.7, 1e3, 999.9), 2) == "24,037 (1,000 to 999.90)"
    assert shown(None) == "not known"


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "it", "one")
    write_text(tmp_path / "it", "two")
    assert (tmp_path / "it").read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]
