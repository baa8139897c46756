"""Plain: a model that was never trained on tools is told in few words."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    Tool,
    ToolDefinitionBlock,
)
from senryu.server.turn.dialects.hermes import HermesDialect
from senryu.server.turn.dialects.plain import HOW_TO_CALL, PlainDialect
from senryu.server.turn.prompt import ChatTokenizer, render

SIGNATURE = (
    'get_weather(city: string, unit?: "c" | "f" = "c") - The weather of a city. '
    'Example input: {"city": "Rome"}'
)


def test_a_tool_loop_is_worded_for_a_template_without_tools(
    called: Conversation, speaks: Callable[[str], ChatTokenizer]
) -> None:
    assert (
        render(called, speaks("chatml"), PlainDialect())
        == f"""\
<|im_start|>system
Be brief.

You have these tools:
{SIGNATURE}
To call a tool, write its name and its input as JSON, and stop:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>
You are then told the result in <tool_response>.<|im_end|>
<|im_start|>user
How is Paris?<|im_end|>
<|im_start|>assistant
I'll look.
<tool_call>
{{"name": "get_weather", "arguments": {{"city": "Paris"}}}}
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
"""
    )


def test_tools_need_no_system_prompt_and_a_system_prompt_no_tools(called: Conversation) -> None:
    tools = PlainDialect().chat(replace(called, system=())).messages[0]
    assert tools["content"] == f"You have these tools:\n{SIGNATURE}\n{HOW_TO_CALL}"
    system = PlainDialect().chat(replace(called, tools=())).messages[0]
    assert system["content"] == "Be brief."
    nothing = PlainDialect().chat(replace(called, tools=(), system=()))
    assert [message["role"] for message in nothing.messages] == ["user", "assistant", "user"]


def test_what_is_said_after_the_tools_were_introduced_is_spelt_as_in_hermes(
    called: Conversation,
) -> None:
    plain, hermes = PlainDialect().chat(called), HermesDialect().chat(called)
    assert plain.messages[1:] == hermes.messages[1:]
    assert plain.tools == []


@pytest.mark.parametrize("from_the_start", [True, False])
def test_who_is_given_a_first_tool_later_is_told_how_to_call_it(
    weather: Tool, from_the_start: bool
) -> None:
    turn = Message(role="user", content=(ToolDefinitionBlock(tool=weather), TextBlock(text="Go.")))
    tools = (weather,) if from_the_start else ()
    *_, last = PlainDialect().chat(Conversation(messages=(turn,), tools=tools)).messages
    assert last["content"].startswith(f"<tools>\n{SIGNATURE}\n")
    assert (HOW_TO_CALL in last["content"]) is not from_the_start


@pytest.mark.parametrize(
    ("properties", "signature"),
    [
        ({}, "f()"),
        ({"a": {"type": "integer"}}, "f(a?: integer)"),
        ({"a": {"type": ["string", "null"]}}, "f(a?: string | null)"),
        ({"a": {"const": 1}, "b": {}}, "f(a?: 1, b?: any)"),
        ({"a": {"type": "array", "items": {"enum": ["é", 2]}}}, 'f(a?: ["é" | 2])'),
        ({"a": {"type": "string", "description": "its\n name"}}, "f(a?: string (its name))"),
        ({"a": {"type": "string", "format": "date"}}, 'f(a?: {"type":"string","format":"date"})'),
        ({"a": True}, "f(a?: true)"),
    ],
)
def test_a_schema_is_a_signature_as_far_as_it_is_simple(
    properties: dict[str, Any], signature: str
) -> None:
    schema = {"$schema": "x", "type": "object", "properties": properties}
    assert PlainDialect().define(Tool(name="f", input_schema=schema)) == signature


def test_a_schema_that_refers_to_parts_of_itself_is_shown_whole() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": True}}
    shown = PlainDialect().define(Tool(name="f", input_schema=schema))
    assert shown == (
        'f({"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":true}})'
    )
