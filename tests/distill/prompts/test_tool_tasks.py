"""Conversations that call tools, of a file and of the packaged one."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.duplicates import Distinct, words
from senryu.distill.prompts.tool_tasks import read_subjects, tool_tasks
from senryu.distill.recipe import ToolsSource

SEND: dict[str, Any] = {
    "name": "send",
    "description": "Sends a note.",
    "input_schema": {"type": "object", "properties": {"to": {"type": "string"}}},
    "asks": ["Write to {who}."],
    "results": ['{"sent": "{who}", "left": {}}'],
    "fillers": {"who": ["Ana", "Mei", "Kofi"]},
}
LOOK: dict[str, Any] = {
    "name": "look",
    "input_schema": {"type": "object"},
    "asks": ["Look outside."],
}


def source(path: str = "packaged", **others: Any) -> ToolsSource:
    return ToolsSource(kind="tools", path=path, **{"count": 10} | others)


def some(how: ToolsSource, count: int = 300) -> list[Task]:
    return list(islice(tool_tasks(how), count))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([SEND, LOOK]))
    return path


def asked(task: Task) -> str:
    return task.conversation.messages[0].text


def fits(task: Task) -> bool:
    """In the small file: whether the tool that is asked for is on offer."""
    wanted = "look" if asked(task) == "Look outside." else "send"
    return wanted in {tool.name for tool in task.conversation.tools}


def test_the_same_file_gives_the_same_tasks(file: Path) -> None:
    """A run that goes on after a stop makes them again."""
    assert some(source(str(file)), 50) == some(source(str(file)), 50)


def test_an_ask_and_its_result_speak_of_the_same(file: Path) -> None:
    """Whoever is written to, it was sent to them; braces of JSON stay."""
    for task in some(source(str(file))):
        assert (task.kind, task.source) == ("tools", "tools tools.json")
        if task.results and "Write" in asked(task):
            (who,) = re.findall(r"to (\w+)\.", asked(task))
            assert task.results == (f'{{"sent": "{who}", "left": {{}}}}',)


def test_now_and_then_no_tool_fits(file: Path) -> None:
    """Then there is no result either, and nothing is forced."""
    tasks = some(source(str(file), force=True))
    unfit = [task for task in tasks if not fits(task)]
    assert 0.08 < len(unfit) / len(tasks) < 0.3
    for task in tasks:
        assert task.tool_choice.mode == ("any" if fits(task) else "auto")
        assert task.conversation.tools
    assert not any(task.results for task in unfit)


def test_without_force_the_choice_is_the_teachers(file: Path) -> None:
    assert {task.tool_choice.mode for task in some(source(str(file)))} == {"auto"}


def test_the_teacher_may_play_the_tool(file: Path) -> None:
    assert not any(task.results for task in some(source(str(file), results="teacher")))


def test_one_tool_alone_is_always_on_offer(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps([SEND]))
    assert all(len(task.conversation.tools) == 1 for task in some(source(str(path)), 20))


def test_the_packaged_set_is_varied() -> None:
    """A dozen tools, hundreds of asks that are no near duplicates, one tool or several at once."""
    subjects = read_subjects("packaged")
    assert len(subjects) >= 12
    for subject in subjects:
        assert len(subject.asks) >= 10
        assert len(subject.results) >= 3
        assert subject.tool.description
    tasks = some(source(), 1500)
    known, kept = Distinct(0.8), 0
    for task in tasks:
        text = words(asked(task))
        if known.repeated(text) is None:
            known.add(text)
            kept += 1
    assert kept > 900
    offered = {len(task.conversation.tools) for task in tasks}
    assert offered == {1, 2, 3, 4}


def test_nothing_packaged_keeps_a_place_unfilled() -> None:
    for task in some(source(), 1000):
        for text in (asked(task), *task.results):
            assert not re.search(r"\{\w+\}", text), text


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "must be a JSON list"),
        ([], "must be a JSON list"),
        ([7], r"tool 1 must be an object with a name"),
        ([{"name": "x", "asks": ["a"]}], r"tool 1 \(x\) is no tool that can be called"),
        ([LOOK | {"name": "bad name"}], r"tool 1 \(bad name\) is no tool that can be called"),
        ([LOOK | {"input_schema": {"type": 3}}], "is no tool that can be called"),
        ([LOOK | {"ask": ["a"]}], "has 'ask'; it takes name"),
        ([LOOK | {"asks": []}], "asks must be a list of texts, at least one"),
        ([LOOK | {"asks": "Look"}], "asks must be a list of texts"),
        ([LOOK | {"results": [{}]}], "results must be a list of texts"),
        ([LOOK | {"fillers": []}], "fillers that are no object"),
        ([LOOK | {"fillers": {"who": []}}], "who must be a list of texts, at least one"),
        ([LOOK, LOOK], "have a name twice"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, told: Any, said: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(told))
    with pytest.raises(DistillError, match=said):
        next(tool_tasks(source(str(path))))


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="There is no file"):
        next(tool_tasks(source(str(tmp_path / "none.json"))))
    (tmp_path / "tools.json").write_text("[")
    with pytest.raises(DistillError, match="not valid JSON"):
        next(tool_tasks(source(str(tmp_path / "tools.json"))))
    with pytest.raises(DistillError, match="cannot be read: Is a directory"):
        next(tool_tasks(source(str(tmp_path))))
