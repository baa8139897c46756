"""Pairs are what the student itself wrote; a kill loses none and makes none twice."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_student import asked, byte_tokenizer, dialect, tiny_student

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.recipe import RefineRecipe
from senryu.distill.refine.critique import Seen, Verdict
from senryu.distill.refine.pairs import ANSWERS, Pair, make_pairs
from senryu.distill.speak import Speaker
from senryu.quant.progress import Silent

RECIPE = RefineRecipe(constitution="packaged", pairs=4, max_tokens=6)
TASKS = [
    Task(id=f"{number:02x}", source="self", kind="chat", conversation=asked(f"What is {number}?"))
    for number in range(6)
]


class Picky:
    """Likes the first answer of four, and has nothing to say about some tasks."""

    def __init__(self, silent: Sequence[str] = (), *, killed_at: int = 99) -> None:
        self.asked: list[str] = []
        self._silent, self._killed_at = silent, killed_at

    async def compare(self, key: str, answers: Sequence[Seen]) -> Verdict | None:
        assert len(answers) == ANSWERS
        if len(self.asked) == self._killed_at:
            raise KeyboardInterrupt
        self.asked.append(key)
        return None if key in self._silent else Verdict(chosen=0, rejected=3, reason="it said so")


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(tiny_student(), byte_tokenizer(), dialect())


async def made(speaker: Speaker, judge: Any, file: Path, **changed: Any) -> list[Pair]:
    told = {"student": "s1", "recipe": RECIPE, "tasks": TASKS} | changed
    return await make_pairs(
        told["tasks"],
        speaker,
        judge,
        told["recipe"],
        file,
        student=told["student"],
        progress=Silent(),
    )


async def test_pairs_are_the_students_own_tokens(speaker: Speaker, tmp_path: Path) -> None:
    judge = Picky(silent=("01",))
    pairs = await made(speaker, judge, tmp_path / "pairs.jsonl")
    assert [pair.id for pair in pairs] == ["00", "02", "03", "04"]
    assert judge.asked == ["00", "01", "02", "03", "04"]
    for pair in pairs:
        assert 0 < len(pair.chosen_ids) <= 6
        assert pair.chosen_ids != pair.rejected_ids
        assert pair.prompt_ids
        assert pair.reason == "it said so"


async def test_a_finished_file_asks_nobody(speaker: Speaker, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "pairs.jsonl"
    pairs = await made(speaker, Picky(), file)
    judge = Picky()
    assert await made(speaker, judge, file) == pairs
    assert not judge.asked


@pytest.mark.parametrize("cut", [0, 1, 20])
async def test_a_kill_costs_at_most_the_line_in_the_making(
    speaker: Speaker, tmp_path: Path, cut: int
) -> None:
    whole = await made(speaker, Picky(silent=("01",)), tmp_path / "whole.jsonl")
    file = tmp_path / "pairs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        await made(speaker, Picky(silent=("01",), killed_at=3), file)
    if cut:
        file.write_bytes(file.read_bytes()[:-cut])
    judge = Picky(silent=("01",))
    assert await made(speaker, judge, file) == whole
    assert judge.asked == (["03", "04"] if not cut else ["02", "03", "04"])
    ids = [json.loads(line).get("id") for line in file.read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids)) == 5


async def test_pairs_of_another_student_are_made_anew(speaker: Speaker, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    await made(speaker, Picky(), file)
    for changed in ({"student": "s2"}, {"recipe": replace(RECIPE, max_tokens=5)}):
        judge = Picky()
        await made(speaker, judge, file, **changed)
        assert len(judge.asked) == 4


async def test_pairs_of_edited_principles_are_made_anew(speaker: Speaker, tmp_path: Path) -> None:
    """What counts are the principles: a comment in their file is none."""
    constitution = tmp_path / "principles.txt"
    recipe = replace(RECIPE, constitution=str(constitution))
    file = tmp_path / "pairs.jsonl"
    for text, asked_for in (
        ("[complete] It ends.\n", 4),
        ("[complete] It ends.\n", 0),
        ("# as they should\n[complete] It ends.\n", 0),
        ("[complete] It ends well.\n", 4),
        ("It ends well.\n", 4),
    ):
        constitution.write_text(text)
        judge = Picky()
        await made(speaker, judge, file, recipe=recipe)
        assert len(judge.asked) == asked_for, text


async def test_held_out_prompts_are_never_refined_with(speaker: Speaker, tmp_path: Path) -> None:
    tasks = [replace(task, held_out=task.id != "05") for task in TASKS]
    pairs = await made(speaker, Picky(), tmp_path / "pairs.jsonl", tasks=tasks)
    assert [pair.id for pair in pairs] == ["05"]


async def test_no_pair_at_all_is_said(speaker: Speaker, tmp_path: Path) -> None:
    judge = Picky(silent=[task.id for task in TASKS])
    with pytest.raises(DistillError, match="or leave \\[refine\\] out"):
        await made(speaker, judge, tmp_path / "pairs.jsonl")


async def test_prompts_without_room_for_an_answer_are_passed_over(tmp_path: Path) -> None:
    speaker = Speaker(tiny_student(window=80), byte_tokenizer(), dialect())
    tasks = [replace(TASKS[0], conversation=asked("Why? " * 40)), TASKS[1]]
    pairs = await made(speaker, Picky(), tmp_path / "pairs.jsonl", tasks=tasks)
    assert [pair.id for pair in pairs] == ["01"]


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "00", "prompt_ids": 3}', '{"x": 1, "y": 2}'])
async def test_a_damaged_file_is_named(speaker: Speaker, tmp_path: Path, line: str) -> None:
    file = tmp_path / "pairs.jsonl"
    await made(speaker, Picky(), file)
    lines = file.read_text().splitlines()
    lines[1] = line
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DistillError, match="delete it, and the pairs are made again"):
        await made(speaker, Picky(), file)
