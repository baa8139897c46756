"""A teacher that runs here says what the server would have answered, with all that it weighed."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import numpy as np
import pytest
from telling_engine import END, TellingEngine, decoded

from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import conversation_from_json
from senryu.distill.teachers.base import Answer, Ask, Teacher
from senryu.distill.teachers.engine import EngineTeacher
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolUseBlock,
)
from senryu.server.engine.base import EngineError, PromptRefused, TokenEvent
from senryu.server.engine.scripted import POEM, ScriptedEngine

TOOL = Tool(
    name="get_weather",
    input_schema={"type": "object", "properties": {"city": {"type": "string"}}},
)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def conversation(text: str = "Hello") -> Conversation:
    content = [{"type": "text", "text": text}]
    return conversation_from_json({"messages": [{"role": "user", "content": content}]})


def ask(text: str = "Hello", *, max_tokens: int = 200, **demands: Any) -> Ask:
    return Ask(
        key=text,
        conversation=conversation(text),
        sampling=Sampling(max_tokens=max_tokens, temperature=0.7),
        demands=Demands(**demands),
        seed=17,
    )


def teacher(engine: Any, **changed: Any) -> EngineTeacher:
    return EngineTeacher(engine, **{"folder": None, "top_k": 4, "streams": 4} | changed)


async def one(engine: Any, asked: Ask | None = None, **changed: Any) -> Answer:
    (answer,) = [each async for each in teacher(engine, **changed).answers([asked or ask()])]
    return answer


async def test_it_is_a_teacher_and_says_who_it_is() -> None:
    engine = TellingEngine(model="org/m")
    open_teacher: Teacher = teacher(engine)
    card = open_teacher.card
    assert (card.name, card.distributions, card.thinks, card.dialect) == (
        "org/m",
        True,
        True,
        "hermes",
    )
    await open_teacher.close()
    assert engine.closed, "training has the cores then"


async def test_an_answer_carries_what_was_read_and_written_to_its_end() -> None:
    engine = TellingEngine("Yes é.")
    answer = await one(engine)
    assert answer.key == "Hello"
    assert answer.message == Message(role="assistant", content=(TextBlock(text="Yes é."),))
    assert answer.stop_reason is StopReason.END_TURN
    assert decoded(answer.prompt_ids) == "user\nHello\nassistant\n" == engine.prompts[0]
    assert answer.token_ids == (*"Yes é.".encode(), END)
    assert answer.top is not None
    assert answer.top.ids.shape == answer.top.logprobs.shape == (8, 4)
    assert (answer.top.ids.dtype, answer.top.logprobs.dtype) == (np.int32, np.float32)
    assert answer.top.ids[:, 0].tolist() == list(answer.token_ids)


async def test_the_engine_is_asked_as_the_server_asks_it() -> None:
    engine = TellingEngine()
    await one(engine)
    (sampling,) = engine.samplings
    assert (sampling.temperature, sampling.max_tokens) == (0.7, 200)
    assert (sampling.top_logprobs, sampling.grammar) == (4, None)


async def test_an_answer_that_was_cut_off_says_so() -> None:
    answer = await one(TellingEngine("Yes."), ask(max_tokens=2))
    assert answer.stop_reason is StopReason.MAX_TOKENS
    assert answer.token_ids == (*b"Ye",)


async def test_of_a_call_the_tail_and_the_end_of_the_turn_are_kept_too() -> None:
    """The server stops reading behind the input of a call; a student has to write on."""
    choice = ToolChoice(mode="any", parallel=False)
    answer = await one(TellingEngine(CALL), ask(callable_tools=(TOOL,), tool_choice=choice))
    assert answer.stop_reason is StopReason.TOOL_USE
    (block,) = answer.message.content
    assert isinstance(block, ToolUseBlock)
    assert (block.name, block.input) == ("get_weather", {"city": "Rome"})
    assert decoded(answer.token_ids) == CALL
    assert answer.token_ids[-1] == END


async def test_a_forced_call_is_held_to_a_grammar() -> None:
    engine = TellingEngine(CALL)
    await one(engine, ask(callable_tools=(TOOL,), tool_choice=ToolChoice(mode="any")))
    assert engine.samplings[0].grammar is not None


async def test_a_tool_that_no_grammar_can_hold_may_be_called_with_any_object() -> None:
    class Refusing(TellingEngine):
        async def refusal(self, grammar: str) -> str | None:
            return "it takes more than a second" if '"city"' in grammar else None

    engine = Refusing(CALL)
    answer = await one(engine, ask(callable_tools=(TOOL,)))
    assert isinstance(answer.message.content[0], ToolUseBlock)
    assert '"city"' not in (engine.samplings[0].grammar or "")


async def test_a_thought_is_a_block_without_a_seal() -> None:
    """Nobody sends it back, and a seal would be another one each time."""
    engine = TellingEngine("It is easy.</think>\n\nYes.")
    answer = await one(engine, ask(thinking=Thinking()))
    assert answer.message.content == (
        ThinkingBlock(thinking="It is easy.", signature=""),
        TextBlock(text="Yes."),
    )
    assert engine.prompts[0].endswith("<think>\n")
    assert engine.samplings[0].grammar is not None, "which holds the thought to its budget"


async def test_an_engine_without_distributions_gives_text_alone() -> None:
    answer = await one(ScriptedEngine())
    assert answer.message.text == POEM
    assert (answer.token_ids, answer.prompt_ids, answer.top) == ((), (), None)


async def test_without_top_k_an_answer_is_text_alone() -> None:
    engine = TellingEngine()
    assert not teacher(engine, top_k=0).card.distributions
    answer = await one(engine, top_k=0)
    assert (answer.message.text, answer.token_ids, answer.top) == ("Yes.", (), None)


async def test_asks_are_drawn_as_there_is_room() -> None:
    engine = TellingEngine()
    drawn: list[str] = []

    def asks() -> Iterator[Ask]:
        for number in range(20):
            drawn.append(str(number))
            yield ask(str(number))

    heard = 0
    async for _ in teacher(engine).answers(asks()):
        heard += 1
        assert len(drawn) <= heard + 4
    assert heard == 20
    assert engine.most_at_once == 4


async def test_many_who_ask_share_the_streams() -> None:
    engine = TellingEngine()
    asking = teacher(engine)

    async def alone(number: int) -> None:
        async for _ in asking.answers([ask(str(number))]):
            pass

    await asyncio.gather(*map(alone, range(20)))
    assert engine.most_at_once == 4


async def test_whoever_leaves_early_leaves_nothing_running() -> None:
    engine = TellingEngine("word " * 100)
    answers = teacher(engine).answers(ask(str(number)) for number in range(20))
    async for _ in answers:
        break
    await answers.aclose()  # type: ignore[attr-defined]
    assert engine.active == set()


class Failing(TellingEngine):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def generate(self, *given: Any) -> AsyncGenerator[TokenEvent, None]:
        raise self._error
        yield


async def test_an_engine_that_breaks_ends_it_with_one_sentence() -> None:
    with pytest.raises(DistillError) as caught:
        await one(Failing(EngineError("The engine has stopped; restart the server")))
    assert str(caught.value) == (
        "The teacher scripted broke off: The engine has stopped; restart the server; what it has "
        "answered is kept, so run the same command again."
    )


async def test_what_cannot_be_asked_has_an_empty_answer() -> None:
    """One prompt that the engine or the window does not take is no reason to end the run."""
    answer = await one(Failing(PromptRefused("The engine refuses this request: no")))
    assert answer.message.content == ()
    assert answer.fault == "refused by the engine, The engine refuses this request: no"
    answer = await one(TellingEngine(window=10), ask("a prompt that is too long"))
    assert answer.message.content == ()
    assert answer.stop_reason is StopReason.CONTEXT_WINDOW_EXCEEDED
    assert answer.fault == "longer than the teacher's window"


async def test_a_users_turn_that_cannot_be_asked_for_is_none() -> None:
    assert await made_up(Failing(PromptRefused("no"))) is None
    assert await made_up(TellingEngine(window=3)) is None


async def test_halves_of_letters_in_a_call_are_cleaned_away() -> None:
    """JSON can spell them, and no file can hold them; the tokens stay as they were written."""
    said = CALL.replace("Rome", r"Rome\ud83d")
    answer = await one(TellingEngine(said), ask(callable_tools=(TOOL,)))
    (call,) = answer.message.content
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"city": "Rome\ufffd"}
    assert decoded(answer.token_ids) == said


async def made_up(engine: Any, before: Conversation | None = None, **how: Any) -> str | None:
    sampling = Sampling(max_tokens=how.pop("max_tokens", 96))
    return await teacher(engine).user_turn(
        before, sampling=sampling, **{"system": "", "seed": 3} | how
    )


async def test_it_makes_up_a_users_turn_behind_the_users_mark() -> None:
    engine = TellingEngine(" What is a senryu?\n")
    assert await made_up(engine, system="Of poems.") == "What is a senryu?"
    assert engine.prompts == ["system\nOf poems.\nuser\n"]
    assert engine.samplings[0].top_logprobs == 0, "nobody learns from it"


async def test_it_makes_up_the_turn_that_follows_an_answer() -> None:
    engine = TellingEngine("And a haiku?")
    answered = Message(role="assistant", content=(TextBlock(text="A poem."),))
    before = Conversation(messages=(*conversation("A senryu?").messages, answered))
    assert await made_up(engine, before) == "And a haiku?"
    assert engine.prompts == ["user\nA senryu?\nassistant\nA poem.\nuser\n"]


@pytest.mark.parametrize("said", ["", " \n", "\ufffd\ufffd", "?!", "...\n"])
async def test_a_turn_of_which_nothing_can_be_made_is_none(said: str) -> None:
    assert await made_up(TellingEngine(said)) is None


async def test_a_turn_that_was_cut_off_is_none() -> None:
    assert await made_up(TellingEngine("What is a senryu?"), max_tokens=5) is None


async def test_a_model_that_goes_on_behind_the_users_turn_is_stopped_there() -> None:
    engine = TellingEngine("What is a senryu?\x03\n\x02assistant\nA poem.")
    assert await made_up(engine) == "What is a senryu?"
    assert engine.active == set()
