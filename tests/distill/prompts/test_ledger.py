"""The file of prompts survives a kill, and notices when it is another recipe's."""

import json
import os
from pathlib import Path

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.ledger import Ledger
from senryu.distill.prompts.making import make_task, user_says

TASKS = [make_task(user_says(f"¿Qué es {n}? 空\u2028"), source="self") for n in range(3)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "prompts.jsonl"


def write(file: Path, *tasks: Task) -> None:
    with Ledger(file, "digest") as ledger:
        for task in tasks:
            ledger.append(task)


def test_what_was_appended_is_there_again(file: Path) -> None:
    """One line each, also where a text holds other ends of lines."""
    write(file, *TASKS[:2])
    write(file, TASKS[2])
    with Ledger(file, "digest") as ledger:
        assert ledger.tasks == ledger.under_way == TASKS
        assert ledger.finished == 0
    lines = file.read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line).get("id") for line in lines] == [None, *(task.id for task in TASKS)]


def test_sources_that_were_read_to_their_end_are_known(file: Path) -> None:
    """And the tasks of the one that was not."""
    with Ledger(file, "digest") as ledger:
        ledger.append(TASKS[0])
        ledger.finish("self", {"gathered": 1})
        ledger.finish("file", {})
        ledger.append(TASKS[1])
    with Ledger(file, "digest") as ledger:
        assert ledger.finished == 2
        assert ledger.tasks == TASKS[:2]
        assert ledger.under_way == [TASKS[1]]


def test_a_kill_at_any_byte_costs_the_torn_line_alone(file: Path) -> None:
    """Cut off anywhere, the file is good again, and goes on at the end of its last whole line."""
    write(file, *TASKS)
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        with Ledger(file, "digest") as ledger:
            assert ledger.tasks == TASKS[:kept]
            for task in TASKS[kept:]:
                ledger.append(task)
        assert file.read_bytes() == whole


def test_the_file_of_another_recipe_is_refused_and_kept(file: Path) -> None:
    write(file, *TASKS)
    before = file.read_bytes()
    with pytest.raises(DistillError, match=r"gathered for another recipe .*: give another --out"):
        Ledger(file, "other")
    assert file.read_bytes() == before


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"id": "x"}', "", '{"id": 1, "messages": [3]}'])
def test_a_damaged_line_is_named(file: Path, line: str) -> None:
    """Nothing is skipped in silence: a lost prompt would be lost for good."""
    write(file, TASKS[0])
    with file.open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(DistillError, match="line 3 is damaged: delete the file"):
        Ledger(file, "digest")


def test_a_file_that_is_none_is_refused(file: Path) -> None:
    """Somebody's own prompts.jsonl is not written to."""
    file.parent.mkdir()
    file.write_text('{"prompt": "Why?"}\n')
    with pytest.raises(DistillError, match="line 1 is damaged"):
        Ledger(file, "digest")


def test_a_full_disk_is_one_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before stays, and the next run goes on from there."""

    class Full:
        def __init__(self, opened: object) -> None:
            self._opened = opened

        def write(self, line: bytes) -> int:
            raise OSError(28, os.strerror(28))

        def close(self) -> None:
            self._opened.close()  # type: ignore[attr-defined]

    with Ledger(file, "digest") as ledger:
        ledger.append(TASKS[0])
        ledger._opened = Full(ledger._opened)  # type: ignore[assignment]
        with pytest.raises(DistillError, match=r"No space left on device.*: make room"):
            ledger.append(TASKS[1])
        assert ledger.tasks == TASKS[:1]
    with Ledger(file, "digest") as ledger:
        assert ledger.tasks == TASKS[:1]


def test_a_folder_in_its_place_is_one_sentence(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(DistillError, match="cannot be written"):
        Ledger(file, "digest")


def test_half_a_letter_is_written_as_what_cannot_be_shown(file: Path) -> None:
    """And the task in memory is the one that the file gives again."""
    with Ledger(file, "digest") as ledger:
        ledger.append(make_task(user_says("What is \ud83d?"), source="self"))
        (task,) = ledger.tasks
    assert task.conversation == user_says("What is \ufffd?")
    with Ledger(file, "digest") as ledger:
        assert ledger.tasks == [task]
