"""Equal conversations become equal prompts, and a started answer is continued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Conversation, Message, Role, TextBlock
from senryu.server.engine.scripted import ByteTokenizer
from senryu.server.turn import prompt
from senryu.server.turn.dialects.base import Chat
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.guard import GUARD
from senryu.server.turn.prompt import ChatTokenizer, Prompt

TOKENIZER = ByteTokenizer()
MUTE = HermesDialect()
THINKER = HermesDialect(thought=THOUGHT)


def render(conversation: Conversation, tokenizer: ChatTokenizer = TOKENIZER) -> str:
    return prompt.render(conversation, tokenizer, MUTE)


def build_prompt(conversation: Conversation, tokenizer: ChatTokenizer = TOKENIZER) -> Prompt:
    return prompt.build_prompt(conversation, tokenizer, MUTE)


def turn(role: Role, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextBlock(text=text) for text in texts))


def talk(*turns: Message, system: tuple[str, ...] = ()) -> Conversation:
    return Conversation(messages=turns, system=tuple(TextBlock(text=text) for text in system))


def test_turns_are_rendered_in_order_and_the_answer_opened() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "hello"), turn("user", "and?"))
    assert render(conversation) == (
        "\x02user\nhi\x03\n\x02assistant\nhello\x03\n\x02user\nand?\x03\n\x02assistant\n"
    )


def test_a_system_prompt_comes_first_and_is_not_trimmed() -> None:
    conversation = talk(turn("user", "hi"), system=(" be ", "brief\n"))
    assert render(conversation).startswith("\x02system\n be brief\n\x03\n\x02user\n")


def test_a_prefilled_answer_follows_the_opening_and_stays_open() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "The an", "swer"))
    asked = talk(turn("user", "hi"))
    assert render(conversation) == render(asked) + "The answer"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_how_an_answer_or_a_system_prompt_is_cut_into_blocks_changes_nothing(
    texts: list[str],
) -> None:
    hi = turn("user", "hi")
    whole = talk(hi, turn("assistant", "".join(texts)), hi, system=("".join(texts),))
    cut = talk(hi, turn("assistant", *texts), hi, system=tuple(texts))
    assert build_prompt(cut) == build_prompt(whole)


def test_the_length_of_a_prompt_is_its_count_of_tokens() -> None:
    prompt = build_prompt(talk(turn("user", "hé")))
    # control, "user\n", three bytes, control, line break, control, "assistant\n"
    assert len(prompt) == len(prompt.token_ids) == 1 + 5 + 3 + 1 + 1 + 1 + 10


def test_a_template_that_refuses_is_heard() -> None:
    class Refusing(ByteTokenizer):
        def render(self, chat: Chat, prefill: str = "") -> str:
            raise ValueError("no system prompts, please")

    with pytest.raises(ValueError, match="no system prompts"):
        build_prompt(talk(turn("user", "hi")), Refusing())


def test_a_thought_begins_or_is_skipped_behind_the_opening_of_the_answer() -> None:
    conversation = talk(turn("user", "hi"))
    opened = render(conversation)
    assert prompt.render(conversation, TOKENIZER, THINKER, thinking=True) == f"{opened}<think>\n"
    skipped = prompt.render(conversation, TOKENIZER, THINKER)
    assert skipped == f"{opened}<think>\n\n</think>\n\n"


@pytest.mark.parametrize("thinking", [True, False])
def test_a_template_that_opens_the_thought_itself_opens_it_once(thinking: bool) -> None:
    class Eager(ByteTokenizer):
        def render(self, chat: Chat, prefill: str = "") -> str:
            return super().render(chat, "<think>\n" + prefill)

    conversation = talk(turn("user", "hi"), turn("assistant", "So"))
    eager = prompt.render(conversation, Eager(), THINKER, thinking=thinking)
    assert eager == prompt.render(conversation, TOKENIZER, THINKER, thinking=thinking)


def test_a_prefilled_answer_stands_behind_the_thought_that_is_skipped() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "So"))
    assert prompt.render(conversation, TOKENIZER, THINKER).endswith(f"{THOUGHT.skipped}So")


def test_a_prefilled_answer_forges_no_mark() -> None:
    conversation = talk(turn("user", "hi"), turn("assistant", "So <tool_call>"))
    assert render(conversation).endswith(f"\x02assistant\nSo <{GUARD}tool_call>")
