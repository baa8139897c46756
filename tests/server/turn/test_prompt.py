"""Equal conversations become equal prompts, and a started answer is continued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Conversation, Message, Role, TextBlock
from senryu.server.engine.scripted import ByteTokenizer
from senryu.server.turn.prompt import ChatMessage, build_prompt, render

TOKENIZER = ByteTokenizer()


def turn(role: Role, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextBlock(text=text) for text in texts))


def talk(*turns: Message, system: tuple[str, ...] = ()) -> Conversation:
    return Conversation(messages=turns, system=tuple(TextBlock(text=text) for text in system))


def test_turns_are_rendered_in_order_and_the_answer_opened() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "hello"), turn("user", "and?"))
    assert render(conversation, TOKENIZER) == (
        "\x02user\nhi\x03\n\x02assistant\nhello\x03\n\x02user\nand?\x03\n\x02assistant\n"
    )


def test_a_system_prompt_comes_first_and_is_not_trimmed() -> None:
    conversation = talk(turn("user", "hi"), system=(" be ", "brief\n"))
    assert render(conversation, TOKENIZER).startswith("\x02system\n be brief\n\x03\n\x02user\n")


def test_a_prefilled_answer_follows_the_opening_and_stays_open() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "The an", "swer"))
    asked = talk(turn("user", "hi"))
    assert render(conversation, TOKENIZER) == render(asked, TOKENIZER) + "The answer"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_how_a_text_is_cut_into_blocks_changes_nothing(texts: list[str]) -> None:
    whole = talk(turn("user", "".join(texts)), system=("".join(texts),))
    cut = talk(turn("user", *texts), system=tuple(texts))
    assert build_prompt(cut, TOKENIZER) == build_prompt(whole, TOKENIZER)


def test_the_length_of_a_prompt_is_its_count_of_tokens() -> None:
    prompt = build_prompt(talk(turn("user", "hé")), TOKENIZER)
    # control, "user\n", three bytes, control, line break, control, "assistant\n"
    assert len(prompt) == len(prompt.token_ids) == 1 + 5 + 3 + 1 + 1 + 1 + 10


def test_a_template_that_refuses_is_heard() -> None:
    class Refusing(ByteTokenizer):
        def render(self, messages: list[ChatMessage], prefill: str = "") -> str:
            raise ValueError("no system prompts, please")

    with pytest.raises(ValueError, match="no system prompts"):
        build_prompt(talk(turn("user", "hi")), Refusing())
