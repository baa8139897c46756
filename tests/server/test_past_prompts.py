"""Past prompts are their askers' alone, and do not grow without end."""

from senryu.server.conversation.messages import Conversation, Message, TextBlock
from senryu.server.past_prompts import PastPrompts
from senryu.server.turn import diagnosis
from senryu.server.turn.prompt import Prompt

TALK = Conversation(messages=(Message(role="user", content=(TextBlock(text="hi"),)),))


def prompt(ids: list[int], *, salt: str = "s") -> diagnosis.Asked:
    return diagnosis.asked("m", TALK, Prompt(token_ids=ids, salt=salt))


def test_a_message_of_others_is_not_found() -> None:
    past = PastPrompts()
    past.put("msg_1", prompt([1], salt="a"))
    assert past.get("msg_1", "a") is not None
    assert past.get("msg_1", "b") is None
    assert past.get("msg_2", "a") is None


def test_the_past_keeps_to_its_bound() -> None:
    past = PastPrompts(limit=20_000)
    for number in range(100):
        past.put(f"msg_{number}", prompt([0] * 1000))
    assert past.get("msg_0", "s") is None
    assert past.get("msg_99", "s") is not None
    assert sum(past.get(f"msg_{number}", "s") is not None for number in range(100)) == 4
