"""What of a prompt changed since the message before, and what it costs (contract 1.10.4)."""

from dataclasses import replace
from typing import Any

from senryu.server.conversation.messages import (
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
)
from senryu.server.turn import diagnosis
from senryu.server.turn.prompt import Prompt

TOOL = Tool(name="ls", input_schema={"type": "object"})
TALK = Conversation(
    messages=(Message(role="user", content=(TextBlock(text="hi"),)),),
    system=(TextBlock(text="Be brief."),),
    tools=(TOOL,),
)


def asked(
    talk: Conversation, ids: list[int], *, model: str = "m", salt: str = "s"
) -> diagnosis.Asked:
    return diagnosis.asked(model, talk, Prompt(token_ids=ids, salt=salt))


def told(before: diagnosis.Asked, now: diagnosis.Asked) -> Any:
    reason = diagnosis.diagnosis(before, now)
    return reason and tuple(reason["cache_miss_reason"].values())


def longer(*blocks: Any) -> Conversation:
    answer = Message(role="assistant", content=(TextBlock(text="ho"),))
    return replace(TALK, messages=(*TALK.messages, answer, Message(role="user", content=blocks)))


def test_a_conversation_that_goes_on_has_not_changed() -> None:
    before = asked(TALK, [1, 2, 3, 9])
    assert told(before, asked(TALK, [1, 2, 3, 9])) is None
    # The opening of the answer was one thing and the answer that came back begins with another.
    assert told(before, asked(longer(TextBlock(text="x")), [1, 2, 3, 4, 5])) is None


def test_the_first_thing_that_changed_is_named_with_what_it_costs() -> None:
    before = asked(longer(TextBlock(text="x")), list(range(10)))
    ids = [0, 1, 2, 99, 4, 5, 6, 7, 8, 9]
    now = longer(TextBlock(text="x"))
    assert told(before, asked(now, ids, model="n")) == ("model_changed", 10)
    changed = replace(now, tools=(replace(TOOL, name="cat"),), system=(TextBlock(text="?"),))
    assert told(before, asked(changed, ids)) == ("tools_changed", 7)
    assert told(before, asked(replace(now, tools=()), ids)) == ("tools_changed", 7)
    other = replace(now, system=(TextBlock(text="Be long."),))
    assert told(before, asked(other, ids)) == ("system_changed", 7)
    assert told(before, asked(longer(TextBlock(text="y")), ids)) == ("messages_changed", 7)
    assert told(before, asked(TALK, ids[:3])) == ("messages_changed", 7)


def test_marks_and_seals_are_no_change_and_thoughts_and_images_are() -> None:
    def thought(text: str, signature: str) -> diagnosis.Asked:
        block = ThinkingBlock(thinking=text, signature=signature)
        turn = Message(role="assistant", content=(block,))
        return asked(replace(TALK, messages=(*TALK.messages, turn)), [1])

    assert told(thought("a", "1"), thought("a", "2")) is None
    assert told(thought("a", "1"), thought("b", "1")) == ("messages_changed", 0)

    def result(cache: Any, data: bytes) -> diagnosis.Asked:
        image = ImageBlock(media_type="image/png", data=data)
        block = ToolResultBlock(
            tool_use_id="1", content=(TextBlock(text="x", cache=cache), image), cache=cache
        )
        return asked(longer(block, replace(image, cache=cache)), [1])

    assert told(result(None, b"a"), result("5m", b"a")) is None
    assert told(result(None, b"a"), result(None, b"b")) == ("messages_changed", 0)
    marked = replace(TALK, tools=(replace(TOOL, cache="1h"),))
    assert told(asked(TALK, [1]), asked(marked, [1])) is None
