"""The prompts of a recipe: each once, on one side, and gathered on after a stop."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.contamination import Sides
from senryu.distill.prompts.duplicates import words
from senryu.distill.prompts.gather import gather
from senryu.distill.prompts.making import make_task, user_says, users_words
from senryu.distill.recipe import (
    CollectRecipe,
    FileSource,
    Recipe,
    RequestsSource,
    SelfSource,
    ToolsSource,
)

Jsonl = Callable[..., Path]
MakeRecipe = Callable[..., Recipe]


async def no_teacher() -> Any:
    raise AssertionError("nothing here needs a teacher")


def opener(teacher: Any) -> Callable[[], Any]:
    async def open_teacher() -> Any:
        return teacher

    return open_teacher


def gathered(*arguments: Any) -> list[Task]:
    return asyncio.run(gather(*arguments))


def texts(tasks: list[Task]) -> list[str]:
    return [users_words(task.conversation) for task in tasks]


def rows(file: Path) -> FileSource:
    return FileSource(kind="file", path=str(file))


def question(seed: int) -> str:
    return f"What is number {seed} good for?"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "prompts.jsonl"


def test_all_sources_come_in_their_order(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """With a word on each, and the count of all."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Ask x@y.zz"}]}
    log = jsonl(body, "{", name="log.jsonl")
    teacher = talker(question)
    recipe = make_recipe(
        rows(jsonl({"prompt": "Why is the sky blue?"}, {"prompt": "why is the sky BLUE"})),
        RequestsSource(kind="requests", path=str(log), opt_in=True),
        ToolsSource(kind="tools", path="packaged", count=3),
        SelfSource(kind="self", count=4),
    )
    tasks = gathered(recipe, out, opener(teacher), listener)
    assert [task.source.split()[0] for task in tasks] == (
        ["file", "requests"] + ["tools"] * 3 + ["self"] * 4
    )
    assert listener.said == [
        "  file prompts.jsonl: 1 prompt, 1 duplicates",
        "  requests log.jsonl: 1 prompt, 1 redacted, 1 unreadable",
        "  tools packaged: 3 prompts",
        "  self: 4 prompts, 4 tried",
        "  9 prompts, 0 of them held out",
    ]
    assert listener.units == listener.finished == 9
    assert not teacher.closed  # the next stage asks it too


def test_without_sources_the_teacher_makes_them_up(
    out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    assert len(gathered(make_recipe(), out, opener(talker(question)), listener)) == 400


def test_what_is_there_is_not_gathered_again(
    out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """No teacher is opened for it, and the file stays as it is."""
    recipe = make_recipe(SelfSource(kind="self", count=4), held_out=0.3)
    first = gathered(recipe, out, opener(talker(question)), listener)
    before = out.read_bytes()
    assert gathered(recipe, out, no_teacher, listener) == first
    assert out.read_bytes() == before


@pytest.mark.parametrize("kept", [1, 2, 5, 9])
def test_a_stopped_run_of_files_ends_as_an_unbroken_one(
    kept: int, out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    """Byte by byte: nothing twice, nothing missing, the counts too."""
    asks = [{"prompt": f"What is {n % 7}?"} for n in range(10)]
    recipe = make_recipe(
        rows(jsonl(*asks)), ToolsSource(kind="tools", path="packaged", count=6), held_out=0.2
    )
    gathered(recipe, out, no_teacher, listener)
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]) + b'{"id": "to')
    gathered(recipe, out, no_teacher, listener)
    assert out.read_bytes() == whole


def test_a_stopped_teacher_makes_up_what_is_missing(
    out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """With other seeds than before, for the same ones bring the same prompts."""
    recipe = make_recipe(SelfSource(kind="self", count=6))
    first = talker(question)
    tasks = gathered(recipe, out, opener(first), listener)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]))
    second = talker(question)
    again = gathered(recipe, out, opener(second), listener)
    assert again[:3] == tasks[:3]
    assert len(set(texts(again))) == 6
    assert not set(first.seeds) & set(second.seeds)


def test_the_digest_alone_says_what_is_held_out(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any, tmp_path: Path
) -> None:
    """A prompt stays on its side when others come before it."""
    asks = [{"prompt": f"What is {n}?"} for n in range(200)]
    recipe = make_recipe(rows(jsonl(*asks)), held_out=0.25)
    tasks = gathered(recipe, out, no_teacher, listener)
    held = {task.id for task in tasks if task.held_out}
    assert 30 < len(held) < 70
    fewer = make_recipe(rows(jsonl(*asks[100:], name="fewer.jsonl")), held_out=0.25)
    others = gathered(fewer, tmp_path / "b.jsonl", no_teacher, listener)
    assert {task.id for task in others if task.held_out} == held & {task.id for task in others}


def test_no_side_holds_what_is_nearly_on_the_other(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    """Neither near duplicates nor a run of words of the evaluation set are trained on."""
    long = (
        "Tell me in a few words how the people of town {} bake their bread in the old way, which "
        "wood they take for the fire, how long it burns, and who in the house gets up for it"
    )
    near = [{"prompt": long.format(n)} for n in range(20)]
    runs = [{"prompt": f"{n} {n * 7} one two three four five six seven eight"} for n in range(20)]
    collect = CollectRecipe(near_duplicates=0.6)
    recipe = make_recipe(rows(jsonl(*near, *runs)), held_out=0.5, collect=collect)
    tasks = gathered(recipe, out, no_teacher, listener)
    sides = Sides(8)
    for task in tasks:
        sides.add(words(users_words(task.conversation)), held_out=task.held_out)
    for task in tasks:
        text = words(users_words(task.conversation))
        assert not sides.shared(text, held_out=task.held_out)
    assert "near duplicates" in listener.said[0]
    assert "that share words with the other side of the evaluation" in listener.said[0]


def test_the_recipe_turns_the_filters_off(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    asks = [{"prompt": f"{n} one two three four five six seven eight nine"} for n in range(20)]
    collect = CollectRecipe(near_duplicates=1.0, contamination=0)
    recipe = make_recipe(rows(jsonl(*asks)), held_out=0.5, collect=collect)
    assert len(gathered(recipe, out, no_teacher, listener)) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": (SelfSource(kind="self", count=4),)},
        {"collect": CollectRecipe(near_duplicates=0.5)},
        {"collect": CollectRecipe(contamination=5)},
    ],
)
def test_another_recipe_is_noticed(
    change: Any, out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """Prompts of two recipes never stand in one file; a change of anything else is none."""
    recipe = make_recipe(SelfSource(kind="self", count=3))
    gathered(recipe, out, opener(talker(question)), listener)
    longer = dataclasses.replace(recipe, collect=CollectRecipe(max_tokens=7))
    gathered(longer, out, no_teacher, listener)
    with pytest.raises(DistillError, match="gathered for another recipe"):
        gathered(dataclasses.replace(recipe, **change), out, no_teacher, listener)


def test_a_teacher_that_gives_too_few_is_told_of(
    out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """The run goes on with what there is, and does not ask again."""
    recipe = make_recipe(SelfSource(kind="self", count=4))
    teacher = talker(lambda seed: f"What is number {seed % 2} good for?")
    assert len(gathered(recipe, out, opener(teacher), listener)) == 2
    assert listener.said[0] == "  self: 2 of the 4 prompts that are wanted, 68 duplicates, 70 tried"
    assert listener.units == listener.finished == 4
    assert len(gathered(recipe, out, no_teacher, listener)) == 2


def test_a_teacher_that_gives_none_stops_the_run(
    out: Path, make_recipe: MakeRecipe, talker: Any, listener: Any
) -> None:
    """With the reasons; the next run asks again, perhaps another teacher."""
    recipe = make_recipe(SelfSource(kind="self", count=4))
    with pytest.raises(DistillError, match=r"no prompt that can be used .*70 empty"):
        gathered(recipe, out, opener(talker(lambda seed: None)), listener)
    assert len(gathered(recipe, out, opener(talker(question)), listener)) == 4


def test_a_source_that_breaks_keeps_what_came_before(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    file = jsonl({"prompt": "Good?"}, "{")
    recipe = make_recipe(rows(file))
    with pytest.raises(DistillError, match="line 2 is not valid JSON"):
        gathered(recipe, out, no_teacher, listener)
    jsonl({"prompt": "Good?"}, {"prompt": "Better?"})
    tasks = gathered(recipe, out, no_teacher, listener)
    assert tasks[0].id == make_task(user_says("Good?"), source="x").id
    assert texts(tasks) == ["Good?", "Better?"]


def test_no_prompt_at_all_is_one_sentence(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    with pytest.raises(DistillError, match="gave no prompt at all"):
        gathered(make_recipe(rows(jsonl(""))), out, no_teacher, listener)


def test_a_file_of_few_tools_ends(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    """It holds no more asks than that, however many are wanted."""
    tool = '[{"name": "x", "input_schema": {"type": "object"}, "asks": ["Do x.", "Do it twice."]}]'
    source = ToolsSource(kind="tools", path=str(jsonl(tool, name="t.json")), count=50)
    assert len(gathered(make_recipe(source), out, no_teacher, listener)) == 2
    assert "2 of the 50 prompts that are wanted" in listener.said[0]


def test_a_side_without_prompts_is_told_of(
    out: Path, jsonl: Jsonl, make_recipe: MakeRecipe, listener: Any
) -> None:
    recipe = make_recipe(rows(jsonl({"prompt": "Good?"})), held_out=0.0001)
    gathered(recipe, out, no_teacher, listener)
    assert "nothing to measure with" in listener.said[-1]
