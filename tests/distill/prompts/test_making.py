"""A task is named by what is asked."""

from dataclasses import replace

from senryu.distill.prompts.making import digest_of, make_task, share_of, user_says, users_words
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    Tool,
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)


def test_equal_asks_of_two_sources_are_one_task() -> None:
    """Neither the source nor the side of the evaluation is part of the name."""
    first = make_task(user_says("Why is the sky blue?"), source="self")
    second = make_task(user_says("Why is the sky blue?"), source="file a.jsonl")
    assert first.id == second.id == digest_of(replace(first, held_out=True))
    assert len(first.id) == 64


def test_whatever_changes_the_ask_changes_the_name() -> None:
    """The words, the system prompt, the choice of tools, their results, the turns to come."""
    said = user_says("Why is the sky blue?")
    tasks = [
        make_task(said, source="self"),
        make_task(user_says("Why is the sea blue?"), source="self"),
        make_task(user_says("Why is the sky blue?", system="Be short."), source="self"),
        make_task(said, source="self", tool_choice=ToolChoice(mode="any")),
        make_task(said, source="self", results=("42",)),
        make_task(said, source="self", further_turns=1),
    ]
    assert len({task.id for task in tasks}) == len(tasks)


def test_the_order_of_keys_in_a_schema_does_not_name_a_task() -> None:
    def asked(schema: dict[str, object]) -> str:
        tool = Tool(name="t", input_schema=schema)
        return make_task(replace(user_says("Go on."), tools=(tool,)), source="x").id

    assert asked({"type": "object", "title": "T"}) == asked({"title": "T", "type": "object"})


def test_where_tools_are_known_it_is_a_task_of_tools() -> None:
    """From the start, or from the middle of the conversation on."""
    tool = Tool(name="t", input_schema={"type": "object"})
    said = user_says("Go on.")
    later = (TextBlock(text="Go on."), ToolDefinitionBlock(tool=tool))
    surfaced = Conversation(messages=(Message(role="user", content=later),))
    assert make_task(said, source="x").kind == "chat"
    assert make_task(replace(said, tools=(tool,)), source="x").kind == "tools"
    assert make_task(surfaced, source="x").kind == "tools"


def test_only_the_users_side_is_compared() -> None:
    """A system prompt or an answer that many share makes no duplicates of them."""
    result = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="rain"),))
    conversation = Conversation(
        system=(TextBlock(text="the system"),),
        messages=(
            Message(role="user", content=(TextBlock(text="weather?"),)),
            Message(role="assistant", content=(ToolUseBlock(id="1", name="w", input={}),)),
            Message(role="user", content=(result, TextBlock(text="and then?"))),
        ),
    )
    assert users_words(conversation) == "weather?\nrain\nand then?"


def test_a_share_of_digests_is_that_share() -> None:
    """Over many tasks a tenth of them lies below 0.1."""
    ids = [make_task(user_says(f"Question {n}?"), source="x").id for n in range(2000)]
    shares = [share_of(each) for each in ids]
    assert all(0 <= each < 1 for each in shares)
    assert 0.08 < sum(each < 0.1 for each in shares) / len(shares) < 0.12
