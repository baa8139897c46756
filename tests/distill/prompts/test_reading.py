"""Conversations of others are read as the server reads them."""

from typing import Any

import pytest

from senryu.distill.prompts.reading import Unreadable, read_asked, read_row, without_nulls

HELLO = {"role": "user", "content": "Hello there."}
WEATHER = {"name": "weather", "input_schema": {"type": "object"}}


def test_an_answer_at_the_end_is_left_out() -> None:
    """A data set's own answer is nobody's business: the teacher gives its own."""
    rows = [HELLO, {"role": "assistant", "content": "Hi!"}]
    asked = read_row({"messages": rows})
    assert [message.role for message in asked.conversation.messages] == ["user"]


def test_answers_before_the_last_question_stay() -> None:
    rows = [HELLO, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Why?"}]
    texts = [message.text for message in read_row({"messages": rows}).conversation.messages]
    assert texts == ["Hello there.", "Hi!", "Why?"]


def test_a_system_prompt_may_stand_first_among_the_messages() -> None:
    rows = [{"role": "system", "content": "Be kind."}, HELLO]
    assert read_row({"messages": rows}).conversation.system_text == "Be kind."


def test_columns_may_hold_json_as_text() -> None:
    """Tables have no other way to hold schemas of many shapes."""
    row = {
        "prompt": "Is it raining?",
        "tools": '[{"name": "w", "input_schema": {"type": "object"}}]',
    }
    (tool,) = read_row(row).conversation.tools
    assert tool.name == "w"


def test_thinking_and_the_choice_of_tools_are_understood() -> None:
    """They come with logged requests."""
    asked = read_asked({"messages": [HELLO], "thinking": {"type": "adaptive"}})
    assert asked.demands.thinking is not None
    choice = {"type": "any"}
    asked = read_asked({"messages": [HELLO], "tools": [WEATHER], "tool_choice": choice})
    assert asked.demands.tool_choice.mode == "any"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "neither messages nor a prompt"),
        ({"prompt": "  "}, "its prompt is empty"),
        ({"prompt": 3}, "neither messages nor a prompt"),
        ({"messages": []}, "neither messages nor a prompt"),
        ({"messages": "Hello"}, "messages: it is a text, and not of JSON"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "at least one message"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"from": "human", "value": "Hi"}]}, "messages.0.role"),
        ({"messages": [HELLO], "tools": [{"name": "x"}]}, "tools.0"),
        ({"messages": {"role": "user"}}, "messages: "),
        ({"messages": [{"role": "user", "content": float("nan")}]}, "JSON"),
        ({"messages": [{"role": "user", "content": b"bytes"}]}, "JSON"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "JSON"),
        (
            {"system": "a", "messages": [{"role": "system", "content": "b"}, HELLO]},
            "system prompt twice",
        ),
    ],
)
def test_what_cannot_be_answered_says_why(row: dict[str, Any], reason: str) -> None:
    """The reason is a clause that a sentence can be made of."""
    with pytest.raises(Unreadable, match=reason) as refused:
        read_row(row)
    assert not str(refused.value).endswith(".")


def test_pictures_are_refused() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with pytest.raises(Unreadable, match="image input"):
        read_asked({"messages": [{"role": "user", "content": content}]})


def test_nulls_of_a_table_are_no_fields() -> None:
    """A table gives each row the keys of all the others."""
    told = [{"type": "text", "text": "x", "input": None}, {"deep": ({"id": None},)}]
    assert without_nulls(told) == [{"type": "text", "text": "x"}, {"deep": [{}]}]
