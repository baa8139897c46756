"""What is written down as JSON comes back as it was."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from senryu.distill.prompts.base import Task
from senryu.distill.prompts.wire import (
    conversation_from_json,
    conversation_to_json,
    message_from_json,
    message_to_json,
    task_from_json,
    task_to_json,
    whole_letters,
)
from senryu.server.conversation.intake import read_request
from senryu.server.conversation.media import Media
from senryu.server.conversation.messages import (
    Conversation,
    ImageBlock,
    Message,
    NoteBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.conversation.signing import Signer
from senryu.server.conversation.terms import Terms
from senryu.server.wire.requests import MessagesRequest, parse

words = some.text(max_size=20)
values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | words,
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
objects = some.dictionaries(words, values, max_size=3)
tools = some.builds(
    Tool,
    name=words,
    description=words,
    input_schema=objects,
    input_examples=some.lists(objects, max_size=2).map(tuple),
    strict=some.booleans(),
    enforced=some.booleans(),
)
texts = some.builds(TextBlock, text=words)
pictures = some.builds(ImageBlock, media_type=words, data=some.binary(max_size=20))
definitions = some.builds(ToolDefinitionBlock, tool=tools)
results = some.builds(
    ToolResultBlock,
    tool_use_id=words,
    content=some.lists(texts | pictures | definitions, max_size=2).map(tuple),
    is_error=some.booleans(),
)
blocks = some.one_of(
    texts,
    pictures,
    definitions,
    results,
    some.builds(NoteBlock, text=words),
    some.builds(ThinkingBlock, thinking=words, signature=words),
    some.builds(ToolUseBlock, id=words, name=words, input=objects),
)
messages = some.builds(
    Message,
    role=some.sampled_from(["user", "assistant"]),
    content=some.lists(blocks, max_size=3).map(tuple),
)
conversations = some.builds(
    Conversation,
    system=some.lists(texts, max_size=2).map(tuple),
    tools=some.lists(tools, max_size=2).map(tuple),
    messages=some.lists(messages, max_size=3).map(tuple),
)
tasks = some.builds(
    Task,
    id=words,
    source=words,
    kind=some.sampled_from(["chat", "tools", "thinking"]),
    conversation=conversations,
    further_turns=some.integers(0, 3),
    tool_choice=some.builds(
        ToolChoice,
        mode=some.sampled_from(["auto", "any", "tool", "none"]),
        name=some.none() | words,
        parallel=some.booleans(),
    ),
    results=some.lists(words, max_size=2).map(tuple),
    held_out=some.booleans(),
).map(
    lambda task: replace(task, user_tokens=7, user_temperature=0.5) if task.further_turns else task
)


def through_a_file(told: Any) -> Any:
    return json.loads(json.dumps(told, ensure_ascii=False).encode())


@given(tasks)
def test_a_task_comes_back(task: Task) -> None:
    """Whatever a task holds, the line in the file gives it again."""
    assert task_from_json(through_a_file(task_to_json(task))) == task


@given(conversations)
def test_a_conversation_comes_back(conversation: Conversation) -> None:
    """Every kind of block, and the tools with their schemas, keys in their order."""
    back = conversation_from_json(through_a_file(conversation_to_json(conversation)))
    assert back == conversation
    for tool, same in zip(conversation.tools, back.tools, strict=True):
        assert list(tool.input_schema) == list(same.input_schema)


@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    assert message_from_json(through_a_file(message_to_json(message))) == message


def test_it_is_the_form_of_the_messages_api() -> None:
    """The server reads what was written as it reads a client's request."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    conversation = Conversation(
        system=(TextBlock(text="Be short."),),
        tools=(Tool(name="weather", description="Looks outside.", input_schema=schema),),
        messages=(
            Message(role="user", content=(TextBlock(text="Is it raining in Bergen?"),)),
            Message(
                role="assistant",
                content=(
                    TextBlock(text="I look."),
                    ToolUseBlock(id="toolu_1", name="weather", input={"city": "Bergen"}),
                ),
            ),
            Message(
                role="user",
                content=(
                    ToolResultBlock(tool_use_id="toolu_1", content=(TextBlock(text="Rain"),)),
                ),
            ),
        ),
    )
    body = {"model": "m", "max_tokens": 1} | conversation_to_json(conversation)
    request = parse(MessagesRequest, json.dumps(body).encode())
    terms = Terms(model="m", signer=Signer(b"key"), media=NoMedia())
    assert read_request(request, terms).conversation == conversation


class NoMedia(Media):
    """Nothing here brings any."""


def test_an_image_is_base64() -> None:
    """As a client would send it."""
    message = Message(role="user", content=(ImageBlock(media_type="image/png", data=b"\x89PNG"),))
    (block,) = message_to_json(message)["content"]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert block == {"type": "image", "source": source}


@pytest.mark.parametrize(
    "told",
    [
        {"role": "user", "content": [{"type": "poem", "text": "x"}]},
        {"role": "system", "content": []},
        {"role": "user"},
        {"role": "user", "content": [{"type": "text"}]},
    ],
)
def test_what_is_something_else_is_refused(told: Any) -> None:
    """A damaged line is never taken for another one."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        message_from_json(told)


@given(values)
def test_whole_letters_stay(value: Any) -> None:
    assert whole_letters(value) == value


def test_halves_of_letters_become_their_letter_or_the_sign_for_none() -> None:
    """Anywhere in JSON, its keys too."""
    told = {"a\ud83d": ["\udc00b", "\ud83d\ude42", ("\ud83d\ud83d", 3, None)]}
    assert whole_letters(told) == {"a\ufffd": ["\ufffdb", "\U0001f642", ["\ufffd\ufffd", 3, None]]}
