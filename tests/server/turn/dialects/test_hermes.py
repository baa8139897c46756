"""Hermes: what the model is shown of tools, calls, results and thoughts."""

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
)
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.guard import IMAGE
from senryu.server.turn.prompt import ChatTokenizer, render

Speaks = Callable[[str], ChatTokenizer]
THINKER = HermesDialect(thought=THOUGHT)


def test_a_tool_loop_is_shown_as_the_family_was_trained(
    called: Conversation, speaks: Speaks
) -> None:
    shown = render(called, speaks("qwen"), THINKER, thinking=True)
    system, talk = shown.split("<|im_end|>\n", 1)
    assert system.startswith('<|im_start|>system\nBe brief.\n{"type": "function", ')
    assert (
        talk
        == """\
<|im_start|>user
How is Paris?<|im_end|>
<|im_start|>assistant
<think>
Let me see.
</think>

I'll look.
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
22 °C
</tool_response>
<tool_response>
The tool failed:
no
</tool_response><|im_end|>
<|im_start|>assistant
<think>
"""
    )


def test_the_template_is_given_the_tools_with_their_examples(called: Conversation) -> None:
    (tool,) = HermesDialect().chat(called).tools
    assert tool["type"] == "function"
    assert tool["function"]["name"] == "get_weather"
    description = 'The weather\nof a city.\nExample input: {"city": "Rome"}'
    assert tool["function"]["description"] == description


def test_a_model_that_does_not_think_is_shown_no_thoughts(called: Conversation) -> None:
    _, _, answer, _ = HermesDialect().chat(called).messages
    assert answer["content"].startswith("I'll look.\n<tool_call>")


def test_a_thought_that_is_not_wanted_is_skipped(called: Conversation, speaks: Speaks) -> None:
    shown = render(called, speaks("qwen"), THINKER)
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_history_of_calls_needs_no_tools(called: Conversation) -> None:
    without = HermesDialect().chat(replace(called, tools=()))
    assert without.tools == []
    assert without.messages == HermesDialect().chat(called).messages


def test_a_tool_learnt_of_later_stands_where_it_was_learnt(weather: Tool) -> None:
    known = ToolDefinitionBlock(tool=weather)
    found = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="Found:"), known))
    turn = Message(role="user", content=(found, known, TextBlock(text="Go on.")))
    (message,) = HermesDialect().chat(Conversation(messages=(turn,))).messages
    defined = f"<tools>\n{HermesDialect().define(weather)}\n</tools>"
    response = f"<tool_response>\nFound:\n{defined}\n</tool_response>"
    assert message["content"] == f"{response}\n{defined}\nGo on."


def test_a_call_gets_a_line_of_its_own_and_no_second_one(called: Conversation) -> None:
    """What stood before a call may have ended its line already."""
    question, answer, _ = called.messages
    texts = []
    for text in ("I'll look.", "I'll look.\n"):
        said = replace(answer, content=(TextBlock(text=text), answer.content[-1]))
        conversation = replace(called, messages=(question, said, question))
        texts.append(HermesDialect().chat(conversation).messages[2]["content"])
    assert texts[0] == texts[1]


def test_texts_and_images_run_on_and_results_have_their_lines() -> None:
    """The model's own template sets an image off from the text, where it is to be set off."""
    image = ImageBlock(media_type="image/png", data=b"")
    result = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="Found:"), image))
    turn = Message(role="user", content=(result, image, TextBlock(text="What?"), image))
    (message,) = HermesDialect().chat(Conversation(messages=(turn,))).messages
    response = f"<tool_response>\nFound:{IMAGE}\n</tool_response>"
    assert message["content"] == f"{response}\n{IMAGE}What?{IMAGE}"
