"""Llama 3: bare JSON calls, and results in turns of their own."""

from collections.abc import Callable
from dataclasses import replace

from senryu.server.conversation.messages import (
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.dialects.hermes import THOUGHT
from senryu.server.turn.dialects.llama3 import Llama3Dialect
from senryu.server.turn.guard import IMAGE
from senryu.server.turn.prompt import ChatTokenizer, render


def test_a_tool_loop_is_shown_as_the_family_was_trained(
    called: Conversation, speaks: Callable[[str], ChatTokenizer]
) -> None:
    shown = render(called, speaks("llama"), Llama3Dialect())
    assert shown.startswith(
        '<|system|>26 Jul 2024 Be brief.<|eot|><|user|>{\n    "type": "function"'
    )
    assert shown.partition("}\n\n")[2] == (
        "How is Paris?<|eot|>"
        "<|assistant|>I'll look.\n"
        '{"name": "get_weather", "parameters": {"city": "Paris"}}<|eot|>'
        '<|ipython|>{"output": "22 °C"}<|eot|><|ipython|>{"error": "no"}<|eot|><|assistant|>'
    )


def test_the_marks_of_a_call_spell_what_a_history_shows(called: Conversation) -> None:
    marks = Llama3Dialect().calls
    call = called.messages[1].content[-1]
    assert isinstance(call, ToolUseBlock)
    spelt = marks.opening + marks.head_of(call.name) + '{"city": "Paris"}' + marks.tail
    assert Llama3Dialect().chat(called).messages[2]["content"].endswith(f"\n{spelt}")
    head = marks.head_pattern.match(spelt, len(marks.opening))
    assert head
    assert head["name"] == call.name
    assert not marks.parallel


def test_what_is_said_with_results_follows_them(called: Conversation) -> None:
    *_, results = called.messages
    asked = replace(results, content=(*results.content, TextBlock(text="And Rome?")))
    talk = Llama3Dialect().chat(replace(called, messages=(*called.messages[:-1], asked)))
    assert [message["role"] for message in talk.messages[-3:]] == ["ipython", "ipython", "user"]
    assert talk.messages[-1]["content"] == "And Rome?"


def test_the_images_of_results_are_shown_behind_them() -> None:
    """A result is an object, and no object shows an image."""
    image = ImageBlock(media_type="image/png", data=b"")
    content = (TextBlock(text="Seen: "), image)
    results = tuple(ToolResultBlock(tool_use_id=each, content=content) for each in "12")
    talk = []
    for said in ((), (TextBlock(text="Well?"), image)):
        turn = Message(role="user", content=(*results, *said))
        talk.append(Llama3Dialect().chat(Conversation(messages=(turn,))).messages)
    for *told, _ in talk:
        assert [each["content"] for each in told] == [
            {"output": "Seen: [an image, shown below]"}
        ] * 2
    assert [messages[-1] for messages in talk] == [
        {"role": "user", "content": IMAGE * 2},
        {"role": "user", "content": f"{IMAGE * 2}Well?{IMAGE}"},
    ]


def test_a_thought_is_shown_to_a_model_that_thinks(
    called: Conversation, speaks: Callable[[str], ChatTokenizer]
) -> None:
    shown = render(called, speaks("llama"), Llama3Dialect(thought=THOUGHT))
    assert "<|assistant|><think>\nLet me see.\n</think>\n\nI'll look.\n{" in shown


def test_a_tool_that_was_looked_up_is_part_of_the_result(weather: Tool) -> None:
    known = ToolDefinitionBlock(tool=weather)
    found = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="One"), known))
    turn = Message(role="user", content=(found, known, TextBlock(text="Go on.")))
    result, said = Llama3Dialect().chat(Conversation(messages=(turn,))).messages
    assert result["content"]["output"] == "One"
    assert [tool["function"]["name"] for tool in result["content"]["functions"]] == ["get_weather"]
    defined = Llama3Dialect().define(weather)
    assert said["content"] == f"There is a new function:\n{defined}\nGo on."
