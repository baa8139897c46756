"""A cache mark stands behind its block in the rendered prompt, whatever the template made of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import (
    Conversation,
    Message,
    NoteBlock,
    TextBlock,
    Tool,
    ToolResultBlock,
)
from senryu.server.turn.dialects import choose_dialect
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.guard import GUARD
from senryu.server.turn.prompt import Prompt, build_prompt

from .conftest import CHATML, LLAMA, QWEN, TemplateTokenizer

FAMILIES = {"plain": CHATML, "hermes": QWEN, "llama3": LLAMA}


def speaker(family: str) -> tuple[TemplateTokenizer, Dialect]:
    dialect, _ = choose_dialect(FAMILIES[family], asked=family, named=None)
    return TemplateTokenizer(FAMILIES[family]), dialect


def read_up_to(prompt: Prompt) -> list[str]:
    """What the model reads up to each mark: these tokenizers have a token a byte."""
    return [bytes(prompt.token_ids[: mark.tokens]).decode() for mark in prompt.marks]


def user(*blocks: Any) -> Message:
    return Message(role="user", content=blocks)


def assistant(*blocks: Any) -> Message:
    return Message(role="assistant", content=blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mark_stands_right_behind_its_text(family: str, weather: Tool) -> None:
    tokenizer, dialect = speaker(family)
    asked = Conversation(
        system=(TextBlock(text="Be brief. ", cache="1h"), TextBlock(text="Be kind.", cache="1h")),
        messages=(
            user(TextBlock(text="How is Paris?")),
            assistant(TextBlock(text="Warm.")),
            user(TextBlock(text="And Rome?", cache="5m"), TextBlock(text="And Oslo?")),
        ),
    )
    prompt = build_prompt(asked, tokenizer, dialect)
    assert [(mark.ttl, mark.part) for mark in prompt.marks] == [
        ("1h", "system"),
        ("1h", "system"),
        ("5m", "messages"),
    ]
    for shown, end in zip(read_up_to(prompt), ("Be brief.", "Be kind.", "And Rome?"), strict=True):
        assert shown.endswith(end)
    assert weather.name not in read_up_to(prompt)[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mark_on_a_result_stands_behind_what_the_tool_gave(
    family: str, called: Conversation
) -> None:
    tokenizer, dialect = speaker(family)
    fine, failed = called.messages[-1].content
    assert isinstance(fine, ToolResultBlock)
    inner = replace(fine, content=(TextBlock(text="22 °C", cache="5m"),))
    for marked in (replace(fine, cache="5m"), inner):
        turn = replace(called.messages[-1], content=(marked, failed))
        asked = replace(called, messages=(*called.messages[:-1], turn))
        (shown,) = read_up_to(build_prompt(asked, tokenizer, dialect))
        assert shown.endswith("22 °C")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mark_on_a_tool_stands_behind_it_and_before_the_next(
    family: str, called: Conversation, weather: Tool
) -> None:
    tokenizer, dialect = speaker(family)
    other = replace(weather, name="get_time", description="The time.")
    asked = replace(called, tools=(replace(weather, cache="1h"), other))
    prompt = build_prompt(asked, tokenizer, dialect)
    (shown,) = read_up_to(prompt)
    assert "get_weather" in shown
    assert "get_time" not in shown
    assert prompt.marks[0].part == "tools"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_note_and_a_call_can_be_marked(family: str, called: Conversation) -> None:
    tokenizer, dialect = speaker(family)
    said = called.messages[1]
    call = replace(said.content[-1], cache="5m")
    asked = replace(
        called,
        messages=(
            called.messages[0],
            replace(said, content=(*said.content[:-1], call)),
            replace(
                called.messages[2],
                content=(*called.messages[2].content, NoteBlock(text="Soon.", cache="5m")),
            ),
        ),
    )
    at_call, at_note = read_up_to(build_prompt(asked, tokenizer, dialect))
    assert "Paris" in at_call
    assert "22 °C" not in at_call
    assert at_note.endswith("Soon.")


PIECES = ["a", "b", " ", "\n", "<|im_end|>", "<think>", "é", "user", '"', "{"]
TEXTS = (
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12)
    .map("".join)
    .filter(lambda text: not text.isspace())
)


@given(texts=st.lists(TEXTS, min_size=1, max_size=7), data=st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_marks_change_no_token_and_never_stand_too_late(
    family: str, texts: list[str], data: st.DataObject
) -> None:
    """What stands up to a mark is the same in the conversation that ends there."""
    tokenizer, dialect = speaker(family)
    if len(texts) % 2 == 0:
        texts.append("end")
    turns = [
        Message(role="assistant" if index % 2 else "user", content=(TextBlock(text=text),))
        for index, text in enumerate(texts)
    ]
    at = data.draw(st.integers(0, len(turns) - 1))
    marked = list(turns)
    marked[at] = replace(turns[at], content=(TextBlock(text=texts[at], cache="5m"),))
    plain = build_prompt(Conversation(messages=tuple(turns)), tokenizer, dialect)
    prompt = build_prompt(Conversation(messages=tuple(marked)), tokenizer, dialect)
    assert prompt.token_ids == plain.token_ids
    (mark,) = prompt.marks
    if at % 2 == 0:
        ended = build_prompt(Conversation(messages=tuple(turns[: at + 1])), tokenizer, dialect)
        assert ended.token_ids[: mark.tokens] == prompt.token_ids[: mark.tokens]


def test_a_block_that_the_template_leaves_out_leaves_its_mark_where_it_would_stand() -> None:
    tokenizer = TemplateTokenizer(
        "{% for message in messages if message.role != 'system' %}{{ message.content }}\n"
        "{% endfor %}"
    )
    dialect, _ = choose_dialect("", asked="plain", named=None)
    asked = Conversation(
        system=(TextBlock(text="Hidden.", cache="1h"),),
        messages=(user(TextBlock(text="Shown.", cache="5m")),),
    )
    prompt = build_prompt(asked, tokenizer, dialect)
    assert [mark.tokens for mark in prompt.marks] == [0, len("Shown.")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_begins_with_the_tools_wherever_they_are_written(
    family: str, called: Conversation
) -> None:
    tokenizer, dialect = speaker(family)
    first, last = TextBlock(text="Be brief.", cache="1h"), TextBlock(text=" Be kind.", cache="1h")
    asked = replace(called, system=(first, last))
    at_first, at_last = read_up_to(build_prompt(asked, tokenizer, dialect))
    assert at_first.endswith("Be brief.")
    assert "get_weather" in at_last
    assert "Be kind." in at_last


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("said", ["a", "name", "city", "weather"])
def test_a_short_message_is_not_found_among_the_tools(
    family: str, said: str, called: Conversation
) -> None:
    tokenizer, dialect = speaker(family)
    asked = replace(called, messages=(user(TextBlock(text=said, cache="5m")),))
    (shown,) = read_up_to(build_prompt(asked, tokenizer, dialect))
    assert "get_weather" in shown
    assert shown.endswith(said)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("given", ['a "b"\n\tc\\', "é\n", "{\n}"])
def test_a_result_is_found_as_a_text_and_as_json(
    family: str, given: str, called: Conversation
) -> None:
    tokenizer, dialect = speaker(family)
    fine, failed = called.messages[-1].content
    marked = replace(fine, content=(TextBlock(text=given),), cache="5m")
    turn = replace(called.messages[-1], content=(marked, failed))
    later = (assistant(TextBlock(text="So it is.")), user(TextBlock(text=given)))
    asked = replace(called, messages=(*called.messages[:-1], turn, *later))
    (shown,) = read_up_to(build_prompt(asked, tokenizer, dialect))
    assert shown.endswith((given.strip(), json.dumps(given.strip(), ensure_ascii=False)[1:-1]))
    assert "So it is." not in shown


def test_pieces_that_are_not_shown_are_looked_for_only_so_often() -> None:
    """A template may leave out as much as fits into a body, and each look goes to the text's end.
    What comes behind is then not found, be it there."""

    def marked(hidden: int) -> int:
        tokenizer = TemplateTokenizer(
            "{% for message in messages %}{{ message.content | replace('x', 'y') }}{% endfor %}"
        )
        dialect, _ = choose_dialect("", asked="plain", named=None)
        odd = [TextBlock(text="x"), TextBlock(text="x")]
        turns = [each for _ in range(hidden) for each in (user(odd[0]), assistant(odd[1]))]
        asked = Conversation(messages=(*turns, user(TextBlock(text="there", cache="5m"))))
        return build_prompt(asked, tokenizer, dialect).marks[0].tokens

    assert marked(3) == len("y" * 6 + "there")
    assert marked(50) == 0


def test_a_guard_of_the_clients_own_hides_no_block() -> None:
    tokenizer, dialect = speaker("hermes")
    said = TextBlock(text=f"he{GUARD}re", cache="5m")
    (shown,) = read_up_to(build_prompt(Conversation(messages=(user(said),)), tokenizer, dialect))
    assert shown.endswith("here")
