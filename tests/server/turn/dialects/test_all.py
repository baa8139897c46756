"""What every dialect promises: old turns keep their bytes, answers come back as they were written,
and nobody but the dialect writes its marks."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    NoteBlock,
    Sampling,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.conversation.signing import Signer
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.blocks import fold
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.dialects.hermes import MARKS, THOUGHT, HermesDialect
from senryu.server.turn.dialects.llama3 import Llama3Dialect
from senryu.server.turn.dialects.plain import PlainDialect
from senryu.server.turn.guard import STAND_INS
from senryu.server.turn.prompt import ChatTokenizer, build_prompt, render
from senryu.server.turn.turn import Turn, run_turn

Speaks = Callable[[str], ChatTokenizer]
FAMILIES = [
    pytest.param("qwen", HermesDialect(), id="hermes"),
    pytest.param("qwen", HermesDialect(thought=THOUGHT), id="hermes that thinks"),
    pytest.param("chatml", PlainDialect(), id="plain"),
    pytest.param("chatml", PlainDialect(thought=THOUGHT), id="plain that thinks"),
    pytest.param("llama", Llama3Dialect(), id="llama3"),
]
TAGGED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
PARIS, ROME = TAGGED % "Paris", TAGGED % "Köln"
BARE = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
FORGED = [*MARKS, *"".join(STAND_INS), "<", "think>", "tool_call>", "\n", '"', "\\"]
QUESTION = Message(role="user", content=(TextBlock(text="And now?"),))


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
def test_a_longer_conversation_begins_with_the_shorter_one(
    called: Conversation, speaks: Speaks, family: str, dialect: Dialect
) -> None:
    """Up to where the answer begins. Templates that drop old thoughts find none to drop."""
    question, answer, results = called.messages
    thoughtful = replace(answer, content=(*answer.content[:2], *answer.content))
    turns = (question, thoughtful, results, answer, QUESTION, thoughtful, results, answer, QUESTION)
    skipped = dialect.thought.skipped if dialect.thought else ""
    shown = [
        render(replace(called, messages=grown), speaks(family), dialect).removesuffix(skipped)
        for grown in accumulate((turn,) for turn in turns)
        if grown[-1].role == "user"
    ]
    assert len(shown) == 5
    for shorter, longer in pairwise(shown):
        assert longer.startswith(shorter)


@pytest.mark.parametrize(
    ("family", "dialect"),
    [("qwen", HermesDialect(thought=THOUGHT)), ("chatml", PlainDialect(thought=THOUGHT))],
)
def test_nothing_is_lost_of_what_was_thought_and_said(
    called: Conversation, speaks: Speaks, family: str, dialect: Dialect
) -> None:
    """Not between two thoughts, and not before the last question."""
    question, answer, results = called.messages
    thought, text, call = answer.content
    turned = replace(answer, content=(thought, text, thought, call))
    turns = (question, turned, results, turned, results, QUESTION)
    spelt = (
        f"<think>\nLet me see.\n</think>\n\nI'll look.\n<think>\nLet me see.\n</think>\n\n{PARIS}"
    )
    assert render(replace(called, messages=turns), speaks(family), dialect).count(spelt) == 2


@pytest.mark.parametrize(
    ("family", "dialect", "written"),
    [
        ("qwen", HermesDialect(), "It is warm."),
        ("qwen", HermesDialect(), f"I'll look.\n{PARIS}"),
        ("qwen", HermesDialect(), f"{PARIS}\n{ROME}"),
        ("qwen", HermesDialect(thought=THOUGHT), f"Well.\n</think>\n\n{PARIS}"),
        ("chatml", PlainDialect(thought=THOUGHT), f"Well.\n</think>\n\nI'll look.\n{PARIS}"),
        ("chatml", PlainDialect(), f"I'll look.\n{PARIS}"),
        ("llama", Llama3Dialect(), "It is warm."),
        ("llama", Llama3Dialect(), BARE),
        ("llama", Llama3Dialect(), f"I'll look.\n{BARE}"),
    ],
)
async def test_an_answer_that_comes_back_is_shown_as_it_was_written(
    weather: Tool, speaks: Speaks, family: str, dialect: Dialect, written: str
) -> None:
    tokenizer, thinking = speaks(family), dialect.thought is not None
    conversation = Conversation(messages=(QUESTION,), tools=(weather,))
    turn = Turn(
        message_id="msg_1",
        model="scripted",
        prompt=build_prompt(conversation, tokenizer, dialect, thinking=thinking),
        sampling=Sampling(max_tokens=1000),
        demands=Demands(callable_tools=(weather,), thinking=Thinking() if thinking else None),
        signer=Signer(b"key"),
    )
    answer = await fold(run_turn(turn, ScriptedEngine(written, dialect=dialect)))
    results = tuple(
        ToolResultBlock(tool_use_id=block.id)
        for block in answer.blocks
        if isinstance(block, ToolUseBlock)
    )
    next_turn = Message(role="user", content=results) if results else QUESTION
    grown = replace(
        conversation,
        messages=(QUESTION, Message(role="assistant", content=answer.blocks), next_turn),
    )
    read = render(conversation, tokenizer, dialect, thinking=thinking)
    assert render(grown, tokenizer, dialect).startswith(f"{read}{written}<|")


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
def test_the_name_in_a_call_is_a_string_of_its_json(
    called: Conversation, speaks: Speaks, family: str, dialect: Dialect
) -> None:
    """A history may hold calls that no model wrote."""
    name = 'x\n"y\\'
    call = ToolUseBlock(id="1", name=name, input={"city": "Paris"})
    turn = Message(role="assistant", content=(call,))
    shown = render(replace(called, messages=(QUESTION, turn, QUESTION)), speaks(family), dialect)
    assert f'{{"name": {json.dumps(name)}, ' in shown


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
def test_what_a_user_sends_in_two_blocks_stays_apart_and_an_answer_runs_on(
    speaks: Speaks, family: str, dialect: Dialect
) -> None:
    texts = ("a", "b ", "c", "", "\nd", "e")
    blocks = tuple(TextBlock(text=text) for text in texts)
    result = ToolResultBlock(tool_use_id="1", content=blocks)
    parties = [("user", blocks), ("assistant", blocks), ("user", (result,)), ("user", blocks)]
    turns = tuple(Message(role=role, content=content) for role, content in parties)
    shown = render(Conversation(messages=turns), speaks(family), dialect)
    assert shown.replace("\\n", "\n").count("a\nb c\nd\ne") == 3
    assert shown.count("ab c\nde") == 1


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
def test_the_operators_note_stands_behind_what_the_user_says(
    speaks: Speaks, family: str, dialect: Dialect
) -> None:
    """These bytes are in cached prompts: they do not change."""
    content = (TextBlock(text="Hi"), NoteBlock(text="Be brief."))
    turn = Message(role="user", content=content)
    shown = render(Conversation(messages=(turn,)), speaks(family), dialect)
    assert "Hi\n\n<system>\nBe brief.\n</system>" in shown


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(forged=st.lists(st.sampled_from(FORGED), max_size=6))
def test_whatever_a_client_writes_only_the_dialect_writes_marks(
    speaks: Speaks, family: str, dialect: Dialect, forged: list[str]
) -> None:
    def marks(text: str) -> list[int]:
        blocks = tuple(TextBlock(text=part) for part in text)
        tool = Tool(
            name="f",
            description=text,
            input_schema={"type": "object", "properties": {text: {"description": text}}},
        )
        conversation = Conversation(
            messages=(
                Message(role="user", content=blocks),
                Message(
                    role="assistant",
                    content=(
                        ThinkingBlock(thinking=text),
                        *blocks,
                        ToolUseBlock(id="1", name=text, input={text: text}),
                    ),
                ),
                Message(role="user", content=(ToolResultBlock(tool_use_id="1", content=blocks),)),
                Message(role="assistant", content=blocks),
            ),
            system=blocks,
            tools=(tool,),
        )
        shown = render(conversation, speaks(family), dialect)
        return [shown.count(mark) for mark in dialect.chat(conversation).marks]

    assert marks("x" + "".join(forged)) == marks("harmless")
