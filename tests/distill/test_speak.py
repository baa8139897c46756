"""A student's own answers are asked for, and read, exactly as the server does it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_student import (
    WEATHER,
    answered,
    asked,
    byte_tokenizer,
    dialect,
    sample,
    tiny_student,
)

from senryu.distill.errors import DistillError
from senryu.distill.speak import Question, Said, Speaker, as_text, calls_fit, spoken
from senryu.server.conversation.messages import (
    Message,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.dialects.plain import PlainDialect
from senryu.server.turn.prompt import build_prompt
from senryu.server.turn.tokenizer import HuggingFaceTokenizer

END = 256
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Reciter:
    """A model that writes given texts, one after the other."""

    training = False

    def __init__(self, tokenizer: Any, texts: Sequence[str], *, ends: bool = True) -> None:
        self._tokenizer, self._texts, self._ends = tokenizer, list(texts), ends
        self.config = SimpleNamespace(max_position_embeddings=4096)
        self.generation_config = SimpleNamespace(eos_token_id=END)
        self.lm_head = SimpleNamespace(weight=torch.zeros(258, 1))

    def eval(self) -> None: ...
    def train(self, mode: bool) -> None: ...

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        texts = [self._texts.pop(0) for _ in input_ids]
        ids = [self._tokenizer(text)["input_ids"] + [END] * self._ends for text in texts]
        longest = max(map(len, ids))
        padded = [each + [END] * (longest - len(each)) for each in ids]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture
def says(tokenizer: Any) -> Any:
    def says(
        text: str, *, thinking: bool = False, ends: bool = True, tools: Any = (WEATHER,)
    ) -> Any:
        speaker = Speaker(Reciter(tokenizer, [text], ends=ends), tokenizer, dialect())
        question = Question.of(asked("Rain?", tools=tools), thinking=thinking)
        (said,) = speaker.say([question], max_tokens=500)
        return said

    return says


def test_an_answer_is_text_and_ends_its_turn(says: Any) -> None:
    said = says("No rain.")
    assert said.message == answered("No rain.")
    assert said.stop_reason is StopReason.END_TURN
    assert said.token_ids[-1] == END
    assert said.text == "No rain."
    assert said.ended
    assert not said.called


def test_an_answer_that_was_cut_did_not_end(says: Any) -> None:
    said = says("No ra", ends=False)
    assert said.stop_reason is StopReason.MAX_TOKENS
    assert not said.ended
    assert said.token_ids[-1] != END


def test_a_call_that_fits_is_valid(says: Any) -> None:
    said = says(f"Let me see.\n{CALL}")
    assert [type(block) for block in said.message.content] == [TextBlock, ToolUseBlock]
    assert said.calls[0].input == {"city": "Oslo"}
    assert said.called
    assert calls_fit(said, (WEATHER,))


@pytest.mark.parametrize(
    "text",
    [
        CALL.replace("get_weather", "get_news"),
        CALL.replace('"Oslo"', "3"),
        CALL.replace("city", "town"),
        CALL.replace('"Oslo"}', '"Oslo",, }'),
        CALL[:60],
        "<tool_call>rain</tool_call>",
    ],
    ids=["no such tool", "wrong type", "lacks a key", "no JSON", "not whole", "no call"],
)
def test_a_call_that_does_not_fit_is_not(says: Any, text: str) -> None:
    """Although a reader that forgives much can make something of most of these."""
    said = says(text)
    assert said.called
    assert not calls_fit(said, (WEATHER,))


def test_a_call_that_was_cut_is_not_valid(says: Any) -> None:
    said = says(CALL[: CALL.index("}}") + 1], ends=False)
    assert said.called
    assert said.calls[0].input == {"city": "Oslo"}
    assert said.stop_reason is StopReason.MAX_TOKENS
    assert not calls_fit(said, (WEATHER,))


def test_without_tools_nothing_is_a_call(says: Any) -> None:
    said = says(CALL, tools=())
    assert not said.called
    assert said.message.text == CALL


def test_a_thought_is_a_block_of_its_own(says: Any) -> None:
    said = says("Hm, Oslo.\n</think>\n\nNo rain.", thinking=True)
    assert said.message.content == (
        ThinkingBlock(thinking="Hm, Oslo.\n"),
        TextBlock(text="No rain."),
    )


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("Hm.\n</think>\n\nNo rain.", True),
        (f"Hm.\n</think>\n\n{CALL}", True),
        ("Hm, no end to it", False),
        ("Hm.\n</think>\n\n", False),
        ("</think>\n\nNo rain.", False),
        ("Hm <think> again.\n</think>\n\nNo rain.", False),
        ("Hm.\n</think>\n\nNo rain. </think>", False),
    ],
    ids=["good", "then a call", "not closed", "no answer", "no thought", "in it", "behind it"],
)
def test_a_thought_is_closed_once_and_answered(tokenizer: Any, text: str, valid: bool) -> None:
    one = sample(kind="thinking", conversation=asked("Rain?", tools=(WEATHER,)))
    speaker = Speaker(Reciter(tokenizer, [text]), tokenizer, dialect())
    (told,) = spoken(speaker, [one], max_tokens=500)
    assert told.thought_valid is valid


@pytest.mark.parametrize(
    ("text", "names", "calls"),
    [
        (CALL, True, True),
        (CALL.replace("Oslo", "Rome"), True, False),
        ("No rain.", False, False),
        (f"{CALL}\n{CALL}", False, False),
    ],
)
def test_calls_are_compared_with_the_teachers(
    tokenizer: Any, text: str, names: bool, calls: bool
) -> None:
    one = sample(
        kind="tools",
        conversation=asked("Rain?", tools=(WEATHER,)),
        message=answered(call=("get_weather", {"city": "Oslo"})),
    )
    (told,) = spoken(
        Speaker(Reciter(tokenizer, [text]), tokenizer, dialect()), [one], max_tokens=500
    )
    assert told.should_call
    assert (told.same_names, told.same_calls) == (names, calls)
    assert told.asked == "Rain?"
    assert told.teacher == '[calls] get_weather({"city": "Oslo"})'
    assert told.student == text


def test_the_student_reads_what_the_server_would_have_it_read(tokenizer: Any) -> None:
    """The prompt that is generated from is build_prompt's, thought opened and all."""
    conversation = asked("<|im_end|> Rain?", tools=(WEATHER,))
    for thinking in (False, True):
        speaker = Speaker(Reciter(tokenizer, ["x"]), tokenizer, dialect())
        (said,) = speaker.say([Question.of(conversation, thinking=thinking)], max_tokens=9)
        served = build_prompt(
            conversation, HuggingFaceTokenizer(tokenizer), dialect(), thinking=thinking
        )
        assert list(said.prompt_ids) == served.token_ids


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """The most probable answer, by reading everything again for each token."""
    written: list[int] = []
    with torch.inference_mode():
        while len(written) < count and END not in written:
            logits = model(torch.tensor([ids + written])).logits
            written.append(int(logits[0, -1].argmax()))
    return written


def test_answers_in_a_batch_are_those_that_each_would_get_alone(tokenizer: Any) -> None:
    """Prompts of other lengths beside it, and what was read before, change nothing."""
    model = tiny_student()
    speaker = Speaker(model, tokenizer, dialect())
    questions = [
        Question.of(asked(text), thinking=False) for text in ("Hi", "How are you today?", "Why?")
    ]
    told = list(speaker.say(questions, max_tokens=12, batch=2))
    for said in told:
        assert list(said.token_ids) == greedy(model, list(said.prompt_ids), 12)


def test_drawn_answers_differ_and_come_again_with_their_seed(tokenizer: Any) -> None:
    speaker = Speaker(tiny_student(), tokenizer, dialect())
    question = Question.of(asked("Hi"), thinking=False)

    def drawn(seed: int) -> list[tuple[int, ...]]:
        told = speaker.vary(question, count=3, max_tokens=8, temperature=1.0, seed=seed)
        return [said.token_ids for said in told]

    state = torch.get_rng_state()
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 3
    assert torch.equal(torch.get_rng_state(), state)


async def test_it_can_be_asked_from_inside_an_event_loop(tokenizer: Any) -> None:
    await asyncio.sleep(0)
    speaker = Speaker(Reciter(tokenizer, ["Yes."]), tokenizer, dialect())
    (said,) = speaker.say([Question.of(asked("Hi"), thinking=False)], max_tokens=9)
    assert said.message == answered("Yes.")


def test_questions_that_leave_no_room_are_left_out(tokenizer: Any) -> None:
    speaker = Speaker(tiny_student(window=64), tokenizer, dialect())
    kept, long = sample("aa-0"), sample("bb-0", conversation=asked("Why? " * 40))
    told = list(spoken(speaker, [long, kept], max_tokens=8))
    assert [each.id for each in told] == ["aa-0"]


def test_a_student_that_cannot_think_is_not_asked_to(tokenizer: Any) -> None:
    speaker = Speaker(Reciter(tokenizer, ["x"]), tokenizer, PlainDialect())
    with pytest.raises(DistillError, match=r"set collect\.thinking to 0"):
        list(spoken(speaker, [sample(kind="thinking")], max_tokens=8))


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Any) -> None:
    model = Reciter(tokenizer, [])
    model.generation_config = SimpleNamespace(eos_token_id=None)
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(DistillError, match="names no token that ends a turn"):
        Speaker(model, endless, dialect())


def test_the_marks_that_nobody_is_to_see_are_known(tokenizer: Any) -> None:
    marks = Speaker(Reciter(tokenizer, []), tokenizer, dialect()).marks
    assert {"<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>"} <= set(marks)
    assert {"<think>", "</think>"} <= set(marks)


def test_turns_are_shown_to_people_with_their_parts_named(says: Any) -> None:
    failed = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="no net"),), is_error=True)
    assert as_text(Message(role="user", content=(failed,))) == "[error] no net"
    said: Said = says("Hm.\n</think>\n\nYes.", thinking=True)
    assert as_text(said.message) == "[thinks] Hm.\n\nYes."
    assert as_text(replace(said.message, content=())) == ""
