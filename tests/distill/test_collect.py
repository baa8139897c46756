"""Every task is answered once, to its end, and what is worth nothing is left out."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the model packages are not installed: make setup")

from telling_engine import END, TellingEngine, decoded

from senryu.distill.collect import ROUNDS, collect, missing
from senryu.distill.encode import Tongue
from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.wire import conversation_from_json
from senryu.distill.recipe import CollectRecipe, Recipe, StudentRecipe, TeacherRecipe, TrainRecipe
from senryu.distill.samples import Sample
from senryu.distill.shards import ShardStore
from senryu.distill.teachers.base import Answer, Ask, TeacherCard
from senryu.distill.teachers.engine import EngineTeacher
from senryu.quant.progress import Silent
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.engine.scripted import ByteTokenizer
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect

RECIPE = Recipe(
    teacher=TeacherRecipe(
        licence="Apache-2.0", allows_training=True, terms="its licence", streams=4, top_k=4
    ),
    collect=CollectRecipe(max_tokens=200),
)
TOOL: dict[str, Any] = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
STUDENT = Tongue(ByteTokenizer(), HermesDialect(thought=THOUGHT))


def task(text: str, number: int = 0, *, tools: bool = False, **changed: Any) -> Task:
    told: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]
    }
    if tools:
        told["tools"] = [TOOL]
    values: dict[str, Any] = {
        "id": f"{number:040x}",
        "source": "self",
        "kind": "tools" if tools else "chat",
        "conversation": conversation_from_json(told),
    }
    return Task(**values | changed)


def tasks(count: int) -> list[Task]:
    return [task(f"Question {number}", number) for number in range(count)]


def teacher(engine: TellingEngine, **changed: Any) -> EngineTeacher:
    return EngineTeacher(engine, **{"folder": None, "top_k": 4, "streams": 4} | changed)


async def collected(
    asked: list[Task], engine: Any, folder: Path, recipe: Recipe = RECIPE, **changed: Any
) -> list[Sample]:
    teaching = teacher(engine) if isinstance(engine, TellingEngine) else engine
    store = ShardStore(folder / "samples", recipe.collect.shard_samples)
    await collect(asked, teaching, recipe, store, Silent(), **changed)
    return sorted(store.samples(), key=lambda sample: sample.id)


def learnt(sample: Sample) -> str:
    return decoded(sample.token_ids[sample.loss_mask])


async def test_an_answer_is_stored_with_the_most_probable_tokens(tmp_path: Path) -> None:
    (sample,) = await collected([task("Hello", held_out=True)], TellingEngine("Yes é."), tmp_path)
    assert sample.id == f"{0:040x}-0"
    assert (sample.kind, sample.source, sample.held_out) == ("chat", "self", True)
    assert sample.conversation == task("Hello").conversation
    assert sample.answer.text == "Yes é."
    assert learnt(sample) == "Yes é."
    assert sample.token_ids[-1] == END
    assert decoded(sample.token_ids[~sample.loss_mask]) == "user\nHello\nassistant\n"
    assert sample.top_ids.shape == sample.top_logprobs.shape == (8, 4)
    assert sample.top_ids[:, 0].tolist() == sample.token_ids[sample.loss_mask].tolist()
    assert np.allclose(np.exp(sample.top_logprobs).sum(1) + sample.tail, 1)
    assert np.allclose(sample.tail, 1 / 16)


async def test_streams_are_answered_side_by_side(tmp_path: Path) -> None:
    engine = TellingEngine()
    assert len(await collected(tasks(20), engine, tmp_path)) == 20
    assert engine.most_at_once == RECIPE.teacher.streams


async def test_what_lies_there_is_not_asked_again(tmp_path: Path) -> None:
    """Nor is a task that gave nothing; and a task that is there twice is asked once."""
    engine = TellingEngine(lambda asked: "" if "Question 3" in asked else "Yes.")
    first = await collected([*tasks(5), *tasks(5)], engine, tmp_path)
    assert len(engine.prompts) == 5
    assert [sample.id for sample in first] == [f"{n:040x}-0" for n in (0, 1, 2, 4)]
    engine.prompts.clear()
    second = await collected(tasks(7), engine, tmp_path)
    assert sorted(engine.prompts) == [f"user\nQuestion {number}\nassistant\n" for number in (5, 6)]
    assert len(second) == 6
    store = ShardStore(tmp_path / "samples")
    assert missing(tasks(7), store) == []
    assert missing(tasks(8), store) == tasks(8)[7:]


async def test_a_call_is_answered_with_the_tasks_results_in_their_order(tmp_path: Path) -> None:
    """The last one is given again when calls go on; each answer is a sample of its own."""

    def say(asked: str) -> str:
        return CALL if asked.count("tool_response>") < 6 else "It is sunny."

    engine = TellingEngine(say)
    asked = task(
        "Rome?", tools=True, results=("Cloudy", "Sunny"), tool_choice=ToolChoice(mode="any")
    )
    samples = await collected([asked], engine, tmp_path)
    assert [learnt(sample) for sample in samples] == [CALL] * 3 + ["It is sunny."]
    assert all(sample.token_ids[-1] == END for sample in samples)
    results = [
        block.content[0].text
        for message in samples[-1].conversation.messages
        for block in message.content
        if isinstance(block, ToolResultBlock) and isinstance(block.content[0], TextBlock)
    ]
    assert results == ["Cloudy", "Sunny", "Sunny"]
    # What tools gave back is read and never learnt.
    assert all("Cloudy" not in learnt(sample) for sample in samples)
    forced, *free = [json.loads(each.grammar or "{}") for each in engine.samplings]
    assert forced["format"]["type"] == "sequence"
    assert all(each["format"]["type"] == "dispatch" for each in free)


async def test_calls_come_to_an_end(tmp_path: Path) -> None:
    """After some rounds the teacher may call no more."""
    engine = TellingEngine(CALL)
    asked = task("Rome?", tools=True, results=("Sunny",))
    samples = await collected([asked], engine, tmp_path)
    assert len(samples) <= ROUNDS + 1
    assert len(engine.samplings) == ROUNDS + 1
    assert json.loads(engine.samplings[-1].grammar or "")["format"] == {
        "type": "any_text",
        "excludes": ["<tool_call>"],
    }


async def test_without_results_the_teacher_plays_the_tool(tmp_path: Path) -> None:
    def say(asked: str) -> str:
        if "You are the tool get_weather" in asked:
            return "Hail."
        return "It hails." if "tool_response" in asked else CALL

    samples = await collected([task("Rome?", tools=True)], TellingEngine(say), tmp_path)
    assert [learnt(sample) for sample in samples] == [CALL, "It hails."]
    assert "<tool_response>\nHail.\n</tool_response>" in decoded(samples[1].token_ids)


async def test_the_teacher_makes_up_the_turns_that_follow(tmp_path: Path) -> None:
    def say(asked: str) -> str:
        return "And you?" if asked.endswith("user\n") else "Fine."

    samples = await collected([task("How are you?", further_turns=2)], TellingEngine(say), tmp_path)
    assert [sample.id[-2:] for sample in samples] == ["-0", "-1", "-2"]
    assert [learnt(sample) for sample in samples] == ["Fine."] * 3
    told = [message.text for message in samples[-1].conversation.messages]
    assert told == ["How are you?", "Fine.", "And you?", "Fine.", "And you?"]


async def test_a_conversation_ends_where_nothing_usable_comes(tmp_path: Path) -> None:
    def say(asked: str) -> str:
        return " \n" if asked.endswith("user\n") else "Fine."

    samples = await collected([task("How?", further_turns=2)], TellingEngine(say), tmp_path)
    assert len(samples) == 1


async def test_turns_that_follow_are_drawn_as_their_source_says(tmp_path: Path) -> None:
    """And not as answers are."""
    engine = TellingEngine(lambda asked: "Go on?" if asked.endswith("user\n") else "Fine.")
    asked = task("How?", further_turns=1, user_tokens=33, user_temperature=0.25)
    cool = replace(RECIPE, collect=replace(RECIPE.collect, temperature=0.75, top_p=0.5))
    await collected([asked], engine, tmp_path, cool)
    drawn = [(each.max_tokens, each.temperature, each.top_p) for each in engine.samplings]
    assert drawn == [(200, 0.75, 0.5), (33, 0.25, 1.0), (200, 0.75, 0.5)]


async def test_a_turn_that_no_person_would_write_is_made_up_anew(tmp_path: Path) -> None:
    """Some times; then the conversation ends."""
    turns = ["Sure, here is a list.", "<|im_start|>", "And you?"]

    def say(asked: str) -> str:
        return turns.pop(0) if asked.endswith("user\n") else "Fine."

    samples = await collected([task("How?", further_turns=1)], TellingEngine(say), tmp_path)
    assert samples[-1].conversation.messages[-1].text == "And you?"
    turns += ["Sure, here you go."] * 9
    asked = task("How?", 1, further_turns=1)
    assert len(await collected([asked], TellingEngine(say), tmp_path / "b")) == 1
    assert len(turns) == 6


class Saying:
    """A teacher of text alone that gives these answers, one after the other."""

    def __init__(self, *answers: tuple[Any, ...], reason: StopReason = StopReason.END_TURN) -> None:
        self.card = TeacherCard(name="saying", folder=None, distributions=False, thinks=True)
        self._answers = list(answers)
        self._reason = reason
        self.asks: list[Ask] = []

    async def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
        for ask in asks:
            self.asks.append(ask)
            said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            content = tuple(
                TextBlock(text=each) if isinstance(each, str) else each for each in said
            )
            message = Message(role="assistant", content=content)
            yield Answer(key=ask.key, message=message, stop_reason=self._reason)

    async def user_turn(
        self, conversation: Conversation | None, *, system: str, sampling: Sampling, seed: int
    ) -> str | None:
        return None

    async def close(self) -> None: ...


def call(name: str = "get_weather", **given: Any) -> ToolUseBlock:
    return ToolUseBlock(id="toolu_1", name=name, input=given)


@pytest.mark.parametrize(
    ("said", "reason", "why"),
    [
        ((), StopReason.END_TURN, "empty"),
        ((" \n",), StopReason.END_TURN, "without an answer"),
        ((ThinkingBlock(thinking="Hm."),), StopReason.END_TURN, "without an answer"),
        ((call("get_time"),), StopReason.TOOL_USE, "calls of unknown tools"),
        ((call(town="Rome"),), StopReason.TOOL_USE, "calls whose input does not fit"),
        ((call(city=3),), StopReason.TOOL_USE, "calls whose input does not fit"),
        (("Hm.", call(city="Ro")), StopReason.MAX_TOKENS, "cut off in a call"),
    ],
)
async def test_useless_answers_are_left_out(
    said: tuple[Any, ...], reason: StopReason, why: str, tmp_path: Path
) -> None:
    store = ShardStore(tmp_path)
    await collect(tasks(1), Saying(("Yes.",)), RECIPE, store, Silent(), tongue=STUDENT)
    asked = task("Rome?", 1, tools=True)
    await collect([asked], Saying(said, reason=reason), RECIPE, store, Silent(), tongue=STUDENT)
    assert store.ids() == {f"{0:040x}-0"}
    assert ShardStore(tmp_path).left_out() == {asked.id: why}


async def test_without_a_single_usable_answer_the_run_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError) as caught:
        await collected(tasks(3), TellingEngine(""), tmp_path)
    assert str(caught.value) == (
        "The teacher gave no usable answer to any of 3 prompts (3 empty): look at the prompts, or "
        "take another teacher."
    )
    assert len(missing(tasks(3), ShardStore(tmp_path / "samples"))) == 3


async def test_an_answer_that_was_cut_off_is_kept_without_an_end(tmp_path: Path) -> None:
    short = replace(RECIPE, collect=replace(RECIPE.collect, max_tokens=3))
    (sample,) = await collected(
        [task("Hi", further_turns=1)], TellingEngine("Yes."), tmp_path, short
    )
    assert sample.token_ids[sample.loss_mask].tolist() == [*b"Yes"]
    told = Saying(("Yes",), reason=StopReason.MAX_TOKENS)
    (sample,) = await collected([task("Hi")], told, tmp_path / "text", tongue=STUDENT)
    assert sample.token_ids[sample.loss_mask].tolist() == [*b"Yes"]


async def test_of_a_teacher_that_gives_text_alone_the_student_reads_the_text(
    tmp_path: Path,
) -> None:
    (sample,) = await collected([task("Hi")], Saying(("Yes.",)), tmp_path, tongue=STUDENT)
    assert sample.token_ids[sample.loss_mask].tolist() == [*b"Yes.", END]
    assert sample.top_ids.shape == sample.top_logprobs.shape == (5, 0)
    assert sample.tail.tolist() == [1.0] * 5


async def test_a_teacher_of_text_alone_needs_a_students_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"name the student's as student\.model"):
        await collected([task("Hi")], Saying(("Yes.",)), tmp_path)


@pytest.mark.parametrize(("share", "thinking"), [(0.0, 0), (1.0, 40), (0.5, 20)])
async def test_the_teacher_thinks_about_the_share_of_prompts_that_the_recipe_says(
    share: float, thinking: int, tmp_path: Path
) -> None:
    """Of chats; about prompts of the kind `thinking` always."""
    recipe = replace(RECIPE, collect=replace(RECIPE.collect, thinking=share))
    told = Saying((ThinkingBlock(thinking="Hm."), "Yes."))
    asked = [*tasks(40), task("Think!", 99, kind="thinking")]
    samples = await collected(asked, told, tmp_path, recipe, tongue=STUDENT)
    wanted = {ask.key for ask in told.asks if ask.demands.thinking is not None}
    assert samples[-1].id in wanted
    assert abs(len(wanted) - 1 - thinking) <= (8 if share == 0.5 else 0)
    assert {sample.kind for sample in samples} == {"thinking"}
    assert learnt(samples[-1]) == "Hm.</think>\n\nYes."


async def test_a_thought_makes_a_sample_one_of_thinking(tmp_path: Path) -> None:
    """So whoever measures asks for one there, and only there."""
    asked = [task("Think!", kind="thinking"), task("Rome?", 1, tools=True)]
    (chat, tools) = await collected(asked, Saying(("Yes.",)), tmp_path, tongue=STUDENT)
    assert (chat.kind, tools.kind) == ("chat", "tools")
    thought = Saying((ThinkingBlock(thinking="Hm."), "Yes."))
    (chat,) = await collected(asked[:1], thought, tmp_path / "thought", tongue=STUDENT)
    assert chat.kind == "thinking"


async def test_a_teacher_that_breaks_leaves_what_it_answered(tmp_path: Path) -> None:
    class Breaking(TellingEngine):
        async def generate(self, *given: Any) -> AsyncIterator[Any]:  # type: ignore[override]
            from senryu.server.engine.base import EngineError

            if len(self.prompts) >= 6:
                raise EngineError("The engine has stopped; restart the server")
            async for event in super().generate(*given):
                yield event

    with pytest.raises(DistillError, match="The engine has stopped; restart the server"):
        await collected(tasks(20), Breaking(), tmp_path)
    stored = ShardStore(tmp_path / "samples").ids()
    assert 0 < len(stored) <= 6
    assert len(await collected(tasks(20), TellingEngine(), tmp_path)) == 20


async def test_a_seed_is_the_answers_own_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = Saying(("Yes.",)), Saying(("Yes.",))
    await collected(tasks(5), one, tmp_path / "a", tongue=STUDENT)
    await collected(tasks(5), other, tmp_path / "b", tongue=STUDENT)
    seeds = {ask.key: ask.seed for ask in one.asks}
    assert seeds == {ask.key: ask.seed for ask in other.asks}
    assert len(set(seeds.values())) == 5


async def test_progress_tells_how_fast_and_how_long(tmp_path: Path) -> None:
    class Listener(Silent):
        def __init__(self) -> None:
            self.units, self.told, self.said = 0, [""], [""]

        def begin(self, units: int) -> None:
            self.units = units

        def done(self, detail: str = "") -> None:
            self.told.append(detail)

        def say(self, sentence: str) -> None:
            self.said.append(sentence)

    listener = Listener()
    await collect(tasks(3), teacher(TellingEngine()), RECIPE, ShardStore(tmp_path), listener)
    assert listener.units == 3
    assert listener.told[-1].startswith("3/3 ")
    assert listener.told[-1].endswith(" tok/s, 0:00 left")
    assert listener.said[-1].startswith("3 answers with 15 tokens in ")


async def test_a_refused_prompt_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """Refusals of one kind are counted together; one of them stands for all."""
    told: list[str] = []

    class Refusing(Saying):
        async def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
            async for each in super().answers(asks):
                number = int(each.key.partition("-")[0], 16)
                if number:
                    why = f"refused with status 400, '{number} tokens are too many'"
                    each = replace(each, message=replace(each.message, content=()), fault=why)
                yield each

    class Listener(Silent):
        def say(self, sentence: str) -> None:
            told.append(sentence)

    store = ShardStore(tmp_path)
    await collect(tasks(4), Refusing(("Yes.",)), RECIPE, store, Listener(), tongue=STUDENT)
    assert told[-1].endswith("; left out: 3 refused with status 400, '1 tokens are too many'.")
    assert store.left_out()[f"{3:040x}"] == ("refused with status 400, '3 tokens are too many'")


async def test_a_student_that_cannot_learn_distributions_is_refused_before_the_first_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads other tokens than the teacher, so that only the text is of use to it."""
    monkeypatch.setattr("senryu.distill.collect.same_tokens", lambda one, other: False)
    student = StudentRecipe(shape="model", model="another")
    engine = TellingEngine()
    recipe = replace(RECIPE, student=student)
    teaching = teacher(engine, folder=tmp_path)
    with pytest.raises(DistillError) as caught:
        await collected(tasks(1), teaching, tmp_path, recipe, tongue=STUDENT)
    assert str(caught.value) == (
        "The student another reads other tokens than the teacher, and so cannot learn its "
        "distributions: set train.loss from 'forward-kl' to 'sft', or take a student.model with "
        "the teacher's tokenizer."
    )
    assert not engine.prompts
    words = replace(recipe, train=TrainRecipe(loss="sft"))
    (sample,) = await collected(tasks(1), teaching, tmp_path, words, tongue=STUDENT)
    assert sample.top_ids.shape[1] == 0
