"""From `tools` and `tool_choice` to the tools that a model knows, and those it may call now.

A request's tools are read once; then a `Toolbox` follows the conversation, for tools appear and go
in the middle of it (contract 1.3.2, 1.6).
"""

from collections.abc import Sequence
from typing import assert_never

from senryu.server.wire import tools as wire
from senryu.server.wire.errors import InvalidRequest

from .cache_marks import marked
from .client_tools import ClientTool, definition
from .messages import Tool, ToolChoice
from .schema_subset import Subset
from .schemas import check_schema
from .terms import Terms

# Clients may change the tools in mid-conversation with either of these.
CHANGES_BETAS = frozenset({"mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"})

# Tools that the hosted service knows only under a beta.
_BETAS = {
    "bash_20241022": "computer-use-2024-10-22",
    "text_editor_20241022": "computer-use-2024-10-22",
    "computer_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
}


class Toolbox:
    """The tools of a request, and which of them may be called at the place that is being read."""

    def __init__(self, tools: Sequence[Tool] = (), deferred: frozenset[str] = frozenset()) -> None:
        self._declared = {tool.name: tool for tool in tools}
        self.visible = tuple(tool for tool in tools if tool.name not in deferred)
        """Those that the model knows from the start."""
        self._callable = {tool.name: tool for tool in self.visible}

    @property
    def callable(self) -> tuple[Tool, ...]:
        """In the order in which they became known."""
        return tuple(self._callable.values())

    def surface(self, name: str) -> tuple[Tool, bool]:
        """A tool that may be called from here on, and whether that is new. Raises
        InvalidRequest."""
        tool = self._named(name)
        new = name not in self._callable
        self._callable[name] = tool
        return tool, new

    def remove(self, name: str) -> None:
        """It may not be called from here on. Raises InvalidRequest."""
        self._named(name)
        self._callable.pop(name, None)

    def _named(self, name: str) -> Tool:
        if name not in self._declared:
            # Without its place: at one that names a document clients would take that away.
            raise InvalidRequest(
                f"Tool reference '{name}' not found in available tools",
                details={"error_code": "tool_reference_unresolved"},
            )
        return self._declared[name]


def read_tools(entries: Sequence[wire.Tool], terms: Terms, subset: Subset) -> Toolbox:
    """Raises InvalidRequest."""
    tools, deferred = [], set()
    for index, entry in enumerate(entries):
        if isinstance(entry, wire.ServerTool | wire.Toolset):
            raise InvalidRequest(f"'{terms.model}' does not support tool types: {entry.type}.")
        beta = _BETAS.get(entry.type)
        if terms.strict and beta is not None and beta not in terms.betas:
            raise InvalidRequest(f"tools.{index}: {entry.type} needs its beta, {beta}")
        here = f"tools.{index}.{entry.type}"
        _check_callers(entry, here)
        tool = _tool(entry, here)
        if terms.strict and tool.strict and isinstance(entry, wire.CustomTool):
            subset.check_tool(tool.input_schema, f"{here}.input_schema")
        tools += marked([tool], entry)
        if entry.defer_loading:
            if entry.cache_control is not None:
                raise InvalidRequest(
                    f"{here}.cache_control: cache_control cannot be set on a tool with "
                    "defer_loading: true"
                )
            deferred.add(tool.name)
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidRequest("tools: Tool names must be unique.")
    if tools and len(deferred) == len(tools):
        raise InvalidRequest(
            "All tools have defer_loading: true; at least one tool has to be known from the start"
        )
    return Toolbox(tools, frozenset(deferred))


def _tool(entry: wire.CustomTool | ClientTool, here: str) -> Tool:
    if isinstance(entry, wire.CustomTool):
        description, schema = entry.description or "", entry.input_schema
    else:
        description, schema = definition(entry)
    examples = tuple(entry.input_examples or ())
    check_schema(
        schema,
        f"{here}.input_schema",
        examples=examples,
        examples_location=f"{here}.input_examples",
    )
    return Tool(
        name=entry.name,
        description=description,
        input_schema=schema,
        input_examples=examples,
        strict=bool(entry.strict),
    )


def _check_callers(entry: wire.ClientTool, here: str) -> None:
    """The model calls tools itself here: there is no sandbox whose code could."""
    if entry.allowed_callers is not None and "direct" not in entry.allowed_callers:
        raise InvalidRequest(
            f"{here}.allowed_callers: 'direct' has to be among them: there is no code execution "
            "on this server"
        )


def read_choice(choice: wire.ToolChoice | None, toolbox: Toolbox, *, declared: bool) -> ToolChoice:
    """Which calls the answer may hold. `declared`: whether the request brought tools. Raises
    InvalidRequest."""
    if choice is None:
        return ToolChoice()
    if not declared:
        raise InvalidRequest("tool_choice may only be specified while providing tools.")
    match choice:
        case wire.AutoChoice():
            return ToolChoice(parallel=not choice.disable_parallel_tool_use)
        case wire.AnyChoice():
            if not toolbox.callable:
                raise InvalidRequest(
                    'tool_choice: type "any" wants a call, and no tool is left that may be called'
                )
            return ToolChoice(mode="any", parallel=not choice.disable_parallel_tool_use)
        case wire.OneChoice():
            if all(tool.name != choice.name for tool in toolbox.callable):
                raise InvalidRequest(f"Tool '{choice.name}' not found in provided tools")
            return ToolChoice(
                mode="tool", name=choice.name, parallel=not choice.disable_parallel_tool_use
            )
        case wire.NoChoice():
            return ToolChoice(mode="none")
    assert_never(choice)
