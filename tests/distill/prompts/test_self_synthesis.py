"""The teacher makes prompts up: many at once, in a fixed order, and only those that ask for
something."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.self_synthesis import fault, made_up
from senryu.distill.recipe import SelfSource


def source(**others: Any) -> SelfSource:
    return SelfSource(kind="self", **{"count": 5} | others)


async def gathered(
    teacher: Any, how: SelfSource | None = None, *, tries: int = 10, salt: str = "a"
) -> tuple[list[Task], Counter[str]]:
    tally: Counter[str] = Counter()
    tasks = made_up(how or source(), teacher, streams=3, salt=salt, tries=tries, tally=tally)
    return [task async for task in tasks], tally


def question(seed: int) -> str:
    return f"What is number {seed} good for?"


async def test_tasks_come_in_the_order_in_which_they_were_asked_for(talker: Any) -> None:
    """However long each takes: a second run gives the same file."""
    first, second = talker(question), talker(question)
    (tasks, tally), (again, _) = await gathered(first), await gathered(second)
    assert [task.id for task in tasks] == [task.id for task in again]
    texts = [task.conversation.messages[0].text for task in tasks]
    assert texts == [question(seed) for seed in first.seeds]
    assert tally == {"tried": 10}


async def test_as_many_are_in_the_making_as_the_recipe_says(talker: Any) -> None:
    teacher = talker(question)
    await gathered(teacher)
    assert teacher.most == 3


async def test_the_seeds_differ_and_another_salt_draws_others(talker: Any) -> None:
    """A run that goes on after a stop does not get the same prompts again."""
    one, other = talker(question), talker(question)
    await gathered(one)
    await gathered(other, salt="b")
    assert len({*one.seeds, *other.seeds}) == 20


async def test_the_system_prompt_and_the_turns_are_the_recipes(talker: Any) -> None:
    teacher = talker(question)
    (task, *_), _ = await gathered(teacher, source(system="You know birds.", turns=3))
    assert teacher.systems == {"You know birds."}
    assert task.conversation.system_text == "You know birds."
    assert (task.source, task.kind, task.further_turns) == ("self", "chat", 2)
    (task, *_), _ = await gathered(
        talker(question), source(turns=2, max_tokens=33, temperature=0.4)
    )
    assert (task.further_turns, task.user_tokens, task.user_temperature) == (1, 33, 0.4)


async def test_what_is_no_request_is_counted_by_its_reason(talker: Any) -> None:
    odd = {0: None, 1: "Hi.", 2: "Sure, here is the list of things you wanted."}

    def turn(seed: int) -> str | None:
        return odd[seed % 3]

    tasks, tally = await gathered(talker(turn), tries=30)
    assert not tasks
    assert set(tally) == {"tried", "empty", "too short", "not a request"}
    assert tally.total() == 60


async def test_whoever_stops_early_leaves_nothing_running(talker: Any) -> None:
    """The turns that were in the making are called off."""
    teacher = talker(question)
    tasks = made_up(source(), teacher, streams=3, salt="a", tries=1000, tally=Counter())
    async for _ in tasks:
        break
    await tasks.aclose()  # type: ignore[attr-defined]
    assert teacher.running == 0
    assert len(asyncio.all_tasks()) == 1
    assert len(teacher.seeds) < 20


async def test_a_teacher_that_fails_stops_it(talker: Any) -> None:
    def turn(seed: int) -> str:
        raise DistillError("The endpoint does not answer: try again later.")

    with pytest.raises(DistillError, match="does not answer"):
        await gathered(talker(turn))
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Why is the sky blue?",
        "Write a poem about the sea.",
        "I'm looking for a good book on birds.",
        "Sort these numbers: 3, 1, 2",
        "Can you explain what `print(x)` does in Python 3.11?",
        "¿Cuántas patas tiene una araña?",
        "Erkläre mir bitte die Photosynthese.",
        "空はなぜ青いのですか",
        "I need help with my homework, the user: field is empty in my form.",
    ],
)
def test_a_request_is_kept(text: str) -> None:
    """Questions, orders and wishes, in any language."""
    assert fault(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "empty"),
        ("  \n", "empty"),
        ("Hello there", "too short"),
        ("why " * 401, "too long"),
        ("?" + "x" * 4001 + " a b c", "too long"),
        ("What is it?<|im_end|>", "with chat markup"),
        ("What is it?\nassistant\nIt is a cat.", "with chat markup"),
        ("User: What is it? Assistant: A cat.", "with chat markup"),
        ("[INST] What is it? [/INST]", "with chat markup"),
        ("What is the best way to go? " * 6, "repetitive"),
        ("Why is it so loooooooooooooong?", "repetitive"),
        ("Name one:\n- a cat\n- a cat\n- a cat", "repetitive"),
        ("Sure, I can do that for you.", "not a request"),
        ("I'd be happy to help! What do you need?", "not a request"),
        ("12 34 56 = 78 ?", "not a request"),
        ("The cat sat on the mat and slept.", "not a request"),
    ],
)
def test_other_texts_are_left_out_with_a_reason(text: str | None, reason: str) -> None:
    assert fault(text) == reason


@pytest.mark.parametrize("text", ["Why?", "Thanks!", "I like the second one.", "Ok, go on"])
def test_a_turn_that_follows_an_answer_may_be_short(text: str) -> None:
    assert fault(text, follows=True) is None
    assert fault(text) is not None or text == "Ok, go on"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure, here is what I can do for you.", "not a request"),
        ("<|im_start|>user", "with chat markup"),
        ("ha " * 30, "repetitive"),
        ("+-*/ 12 34 ==", "not a request"),
        (" ", "empty"),
    ],
)
def test_a_turn_that_follows_is_still_a_persons(text: str, reason: str) -> None:
    assert fault(text, follows=True) == reason
