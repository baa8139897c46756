"""Tools and the choice between them, as clients send them (contract 1.6)."""

from typing import Any

import jsonschema
import pytest

from senryu.server.conversation.messages import Tool, ToolChoice

OBJECT = {"type": "object"}
CLOSED = {"type": "object", "additionalProperties": False}
BUDGET = {"type": "enabled", "budget_tokens": 1024}


def tool(name: str = "ls", **more: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": OBJECT} | more


def client_tool(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name} | more


SCREEN = {"display_width_px": 1024, "display_height_px": 768}
CLIENT_TOOLS = [
    client_tool("bash_20250124", "bash"),
    client_tool("bash_20241022", "bash"),
    client_tool("text_editor_20250728", "str_replace_based_edit_tool", max_characters=1000),
    client_tool("text_editor_20250429", "str_replace_based_edit_tool"),
    client_tool("text_editor_20250124", "str_replace_editor"),
    client_tool("text_editor_20241022", "str_replace_editor"),
    client_tool("memory_20250818", "memory"),
    client_tool("computer_20241022", "computer", **SCREEN),
    client_tool("computer_20250124", "computer", **SCREEN, display_number=1),
    client_tool("computer_20251124", "computer", **SCREEN, enable_zoom=True),
]


def test_a_tool_is_read_with_all_that_it_brings(read: Any) -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"b": {}, "a": {}}}
    sent = tool(
        description="Lists.",
        input_schema=schema,
        strict=True,
        input_examples=[{"a": 1}],
        eager_input_streaming=True,
        cache_control={"type": "ephemeral"},
        allowed_callers=["direct"],
    )
    asked = read(tools=[sent])
    expected = Tool(
        name="ls",
        description="Lists.",
        input_schema=schema,
        input_examples=({"a": 1},),
        strict=True,
        cache="5m",
    )
    assert asked.conversation.tools == asked.demands.callable_tools == (expected,)
    assert list(expected.input_schema["properties"]) == ["b", "a"]
    assert asked.demands.tool_choice == ToolChoice(mode="auto")


@pytest.mark.parametrize("entry", CLIENT_TOOLS)
def test_a_tool_of_the_apis_own_gets_its_words_and_schema_from_us(
    read: Any, entry: dict[str, Any]
) -> None:
    (read_tool,) = read(tools=[entry]).conversation.tools
    assert read_tool.name == entry["name"]
    assert len(read_tool.description) > 80
    jsonschema.Draft202012Validator.check_schema(read_tool.input_schema)
    assert read_tool.input_schema["type"] == "object"


@pytest.mark.parametrize(
    ("entry", "good", "bad"),
    [
        (CLIENT_TOOLS[0], [{"command": "ls"}, {"restart": True}], [{}, {"restart": False}]),
        (
            CLIENT_TOOLS[2],
            [
                {"command": "view", "path": "/a", "view_range": [1, -1]},
                {"command": "insert", "path": "/a", "insert_line": 0, "insert_text": "x"},
            ],
            [{"command": "view"}, {"command": "undo_edit", "path": "/a"}],
        ),
        (CLIENT_TOOLS[4], [{"command": "undo_edit", "path": "/a"}], [{"path": "/a"}]),
        (
            CLIENT_TOOLS[6],
            [
                {"command": "view", "path": "/memories"},
                {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"},
            ],
            [{"command": "delete"}, {"command": "create", "path": "/memories/a"}],
        ),
        (
            CLIENT_TOOLS[7],
            [{"action": "left_click", "coordinate": [5, 6]}, {"action": "key", "text": "ctrl+s"}],
            [{"action": "scroll"}, {"action": "left_click", "coordinate": [5]}, {}],
        ),
        (CLIENT_TOOLS[8], [{"action": "scroll", "scroll_direction": "up"}], [{"action": "zoom"}]),
        (CLIENT_TOOLS[9], [{"action": "zoom", "region": [0, 0, 9, 9]}], [{"action": "jump"}]),
    ],
)
def test_a_schema_of_ours_takes_what_the_contract_lists(
    read: Any, entry: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    (read_tool,) = read(tools=[entry]).conversation.tools
    judge = jsonschema.Draft202012Validator(read_tool.input_schema)
    assert all(judge.is_valid(each) for each in good)
    assert not any(judge.is_valid(each) for each in bad)


@pytest.mark.parametrize("entry", CLIENT_TOOLS)
def test_strict_reading_wants_the_betas_of_older_and_of_computer_tools(
    read: Any, entry: dict[str, Any]
) -> None:
    day = {"20241022": "2024-10-22", "computer_20250124": "2025-01-24", "20251124": "2025-11-24"}
    beta = next(
        (f"computer-use-{each}" for end, each in day.items() if entry["type"].endswith(end)), None
    )
    if beta is None:
        assert read(on={"strict": True}, tools=[entry | {"strict": True}])
        return
    # Clients would leave out a beta that is named beside the name of its header.
    words = f"tools.0: {entry['type']} needs its beta, {beta}"
    assert read.refusal(on={"strict": True}, tools=[entry]) == words
    assert read(on={"strict": True, "betas": frozenset({beta})}, tools=[entry])


def test_the_model_is_told_how_large_the_screen_is(read: Any) -> None:
    (computer,) = read(tools=[CLIENT_TOOLS[8]]).conversation.tools
    assert "1024 pixels wide and 768 high" in computer.description
    assert ":1" in computer.description
    (editor,) = read(tools=[CLIENT_TOOLS[2]]).conversation.tools
    assert "1000 characters" in editor.description


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_20250305",
        "web_fetch_20260318",
        "code_execution_20250825",
        "tool_search_tool_bm25",
        "advisor_20260301",
        "mcp_toolset",
        "computer_toolset_20260801",
        "browser_toolset_20260801",
    ],
)
def test_a_tool_that_only_the_hosted_service_can_run_is_refused(read: Any, kind: str) -> None:
    assert read.refusal(tools=[tool(), {"type": kind}]) == (
        f"'m' does not support tool types: {kind}."
    )
    marked = {"type": kind, "cache_control": {"type": "ephemeral"}}
    assert read.refusal(tools=[tool(), marked], cache_control={"type": "ephemeral"}) == (
        f"'m' does not support tool types: {kind}."
    )


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([tool(), tool()], "tools: Tool names must be unique."),
        ([CLIENT_TOOLS[0], tool("bash")], "tools: Tool names must be unique."),
        (
            [tool(defer_loading=True), tool("cat", defer_loading=True)],
            "All tools have defer_loading: true; at least one tool has to be known from the start",
        ),
        (
            [tool(), tool("cat", allowed_callers=["code_execution_20250825"])],
            "tools.1.custom.allowed_callers: 'direct' has to be among them: there is no code "
            "execution on this server",
        ),
        (
            [tool(), tool("a", defer_loading=True, cache_control={"type": "ephemeral"})],
            "tools.1.custom.cache_control: cache_control cannot be set on a tool with "
            "defer_loading: true",
        ),
        (
            [tool(input_schema={"type": "object", "properties": 5})],
            'tools.0.custom.input_schema: JSON schema is invalid: 5 is not of type "object"',
        ),
        (
            [
                tool(input_examples=[{}]),
                tool("a", input_examples=[{}, {"x": 1}], input_schema=CLOSED),
            ],
            "tools.1.custom.input_examples.1: the example does not fit the input_schema: ",
        ),
        (
            [CLIENT_TOOLS[0] | {"input_examples": [{"command": 5}]}],
            "tools.0.bash_20250124.input_examples.0: the example does not fit the input_schema: ",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_named(read: Any, tools: list[Any], words: str) -> None:
    assert read.refusal(tools=tools).startswith(words)


def test_a_deferred_tool_is_neither_shown_nor_called_until_it_surfaces(read: Any) -> None:
    asked = read(tools=[tool("a", defer_loading=True), tool("b"), tool("c", defer_loading=False)])
    assert [each.name for each in asked.conversation.tools] == ["b", "c"]
    assert asked.demands.callable_tools == asked.conversation.tools


# --- the choice --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "auto", "disable_parallel_tool_use": False}, ToolChoice()),
        ({"type": "any"}, ToolChoice(mode="any")),
        (
            {"type": "tool", "name": "ls", "disable_parallel_tool_use": True},
            ToolChoice(mode="tool", name="ls", parallel=False),
        ),
        ({"type": "none"}, ToolChoice(mode="none")),
        (None, ToolChoice()),
    ],
)
def test_all_four_choices_are_honoured(read: Any, sent: Any, meant: ToolChoice) -> None:
    asked = read(tools=[tool(), tool("cat")], tool_choice=sent)
    assert asked.demands.tool_choice == meant
    assert len(asked.demands.callable_tools) == len(asked.conversation.tools) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"tool_choice": {"type": "auto"}},
            "tool_choice may only be specified while providing tools.",
        ),
        (
            {"tool_choice": {"type": "any"}, "tools": []},
            "tool_choice may only be specified while providing tools.",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "tool", "name": "cat"}},
            "Tool 'cat' not found in provided tools",
        ),
        (
            {
                "tools": [tool(), tool("cat", defer_loading=True)],
                "tool_choice": {"type": "tool", "name": "cat"},
            },
            "Tool 'cat' not found in provided tools",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "any"}, "thinking": BUDGET},
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
    ],
)
def test_a_choice_that_cannot_be_made_is_named(
    read: Any, changed: dict[str, Any], words: str
) -> None:
    assert read.refusal(on={"thinks": True}, max_tokens=2000, **changed) == words


def test_no_tool_at_all_cannot_be_forced(read: Any) -> None:
    gone = {
        "type": "tool_removal",
        "tool": {"type": "tool_reference", "name": "ls"},
    }
    messages = [{"role": "user", "content": "hi"}, {"role": "system", "content": [gone]}]
    on = {"betas": frozenset({"inline-tools-2026-09-15"})}
    words = read.refusal(on=on, tools=[tool()], messages=messages, tool_choice={"type": "any"})
    assert words.startswith('tool_choice: type "any" wants a call')


def test_a_model_that_decides_itself_may_think_before_a_forced_call(read: Any) -> None:
    asked = read(
        on={"thinks": True},
        tools=[tool()],
        tool_choice={"type": "any"},
        thinking={"type": "adaptive"},
    )
    assert asked.demands.thinking
    assert asked.demands.tool_choice.forced
