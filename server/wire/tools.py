"""The `tools` and `tool_choice` of the Messages API as the wire spells them (contract 1.6)."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .blocks import CacheControl, Listed, Loose, Strict


class InputSchema(Loose):
    """A JSON Schema whose top is an object."""

    type: Literal["object"]


class LooksLikeASchema:
    """Checks the top of a schema and leaves it as it came: its keys keep the client's order."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._unchanged, handler.generate_schema(InputSchema)
        )

    @staticmethod
    def _unchanged(value: Any, check: Callable[[Any], Any]) -> Any:
        check(value)
        return value


class ClientTool(Strict):
    """What every tool entry that runs at the client may carry."""

    cache_control: CacheControl | None = None
    strict: bool | None = None
    input_examples: Listed[dict[str, Any]] | None = None
    defer_loading: bool | None = None
    allowed_callers: Listed[str] | None = None


class CustomTool(ClientTool):
    type: Literal["custom"] = "custom"
    name: Annotated[str, Field(max_length=128, pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: str | None = None
    input_schema: Annotated[dict[str, Any], LooksLikeASchema()]
    eager_input_streaming: bool | None = None


class BashTool(ClientTool):
    type: Literal["bash_20250124", "bash_20241022"]
    name: Literal["bash"]


class TextEditorTool(ClientTool):
    type: Literal["text_editor_20250429"]
    name: Literal["str_replace_based_edit_tool"]


class CuttingTextEditorTool(ClientTool):
    """The client cuts what it shows to `max_characters`."""

    type: Literal["text_editor_20250728"]
    name: Literal["str_replace_based_edit_tool"]
    max_characters: Annotated[int, Field(ge=1)] | None = None


class OldTextEditorTool(ClientTool):
    type: Literal["text_editor_20250124", "text_editor_20241022"]
    name: Literal["str_replace_editor"]


class MemoryTool(ClientTool):
    type: Literal["memory_20250818"]
    name: Literal["memory"]


class ComputerTool(ClientTool):
    type: Literal["computer_20241022", "computer_20250124"]
    name: Literal["computer"]
    display_width_px: Annotated[int, Field(ge=1)]
    display_height_px: Annotated[int, Field(ge=1)]
    display_number: Annotated[int, Field(ge=0)] | None = None


class ZoomingComputerTool(ClientTool):
    type: Literal["computer_20251124"]
    name: Literal["computer"]
    display_width_px: Annotated[int, Field(ge=1)]
    display_height_px: Annotated[int, Field(ge=1)]
    display_number: Annotated[int, Field(ge=0)] | None = None
    enable_zoom: bool | None = None


class Toolset(Strict):
    """One entry that stands for many member tools; it has no name of its own."""

    type: Literal["computer_toolset_20260801", "browser_toolset_20260801"]
    configs: dict[str, Any] | None = None
    allowed_callers: Listed[str] | None = None
    cache_control: CacheControl | None = None


class ServerTool(Loose):
    """Tools that the hosted service runs itself."""

    type: Literal[
        "web_search_20250305",
        "web_search_20260209",
        "web_search_20260318",
        "web_fetch_20250910",
        "web_fetch_20260209",
        "web_fetch_20260309",
        "web_fetch_20260318",
        "code_execution_20250522",
        "code_execution_20250825",
        "code_execution_20260120",
        "code_execution_20260521",
        "tool_search_tool_regex",
        "tool_search_tool_regex_20251119",
        "tool_search_tool_bm25",
        "tool_search_tool_bm25_20251119",
        "advisor_20260301",
        "mcp_toolset",
    ]
    cache_control: CacheControl | None = None


def _name_the_default_type(entry: Any) -> Any:
    """A tool without a type, or with null, is a custom tool; the union wants to be told."""
    if isinstance(entry, dict) and entry.get("type") is None:
        return {**entry, "type": "custom"}
    return entry


Tool = Annotated[
    CustomTool
    | BashTool
    | CuttingTextEditorTool
    | TextEditorTool
    | OldTextEditorTool
    | MemoryTool
    | ComputerTool
    | ZoomingComputerTool
    | Toolset
    | ServerTool,
    Field(discriminator="type"),
    BeforeValidator(_name_the_default_type),
]


class AutoChoice(Strict):
    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Strict):
    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None


class OneChoice(Strict):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Strict):
    type: Literal["none"]


ToolChoice = Annotated[AutoChoice | AnyChoice | OneChoice | NoChoice, Field(discriminator="type")]
