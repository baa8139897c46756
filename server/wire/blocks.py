"""The content blocks of the Messages API as the wire spells them (contract 1.3.1).

Shapes only: which block may stand where is decided in `conversation.intake`. Every block of
the contract is here, also those that the server does not act on yet, so that a client's
mistake is told apart from our own gap.
"""

from itertools import islice
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

Item = TypeVar("Item")

# A list whose reading ends at the first bad item: only the first failure is ever told, and to
# collect a million of them takes half a minute.
Listed = Annotated[list[Item], Field(fail_fast=True)]

# No object of the contract has as many keys: what goes beyond is unknown keys.
_MOST_KEYS = 100


class _OrText(BeforeValidator):
    """Blocks that may be sent as a string, and are described so."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def _as_blocks(content: Any) -> Any:
    """A string is the same as one text block, and the empty string as no block at all."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


OR_TEXT = _OrText(_as_blocks)


class Strict(BaseModel):
    """No coercion and no unknown keys: `max_tokens: "10"` is an error, and so is a typo."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown_keys(cls, value: Any) -> Any:
        """Of a flood of unknown keys the first is enough: each would be a failure of its own."""
        if not isinstance(value, dict) or len(value) <= _MOST_KEYS:
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = islice((key for key in value if key not in known), 1)
        return {key: value[key] for key in (*known, *unknown) if key in value}


class Loose(BaseModel):
    """For blocks that hosted models wrote and that we only pass over."""

    model_config = ConfigDict(extra="allow")


class OnlyTag:
    """A union by `type` that has one member so far: its tag stands in locations all the same."""

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.tagged_union_schema({self._tag: handler(source)}, discriminator="type")


class Ephemeral(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: Any = None  # sent by Claude Code on first-party routes; without meaning here


CacheControl = Annotated[Ephemeral, OnlyTag("ephemeral")]


class CitationSwitch(Strict):
    enabled: bool | None = None


class Text(Strict):
    type: Literal["text"]
    text: str
    citations: Listed[dict[str, Any]] | None = None
    cache_control: CacheControl | None = None


class Base64ImageSource(Strict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Strict):
    type: Literal["url"]
    url: str


class FileSource(Strict):
    type: Literal["file"]
    file_id: str


class ImageTransformations(Strict):
    oversized_image: Literal["downsize", "error"] | None = None


class Image(Strict):
    type: Literal["image"]
    source: Annotated[Base64ImageSource | UrlSource | FileSource, Field(discriminator="type")]
    transformations: ImageTransformations | None = None
    cache_control: CacheControl | None = None


class Base64PdfSource(Strict):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: str


class PlainTextSource(Strict):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ContentSource(Strict):
    type: Literal["content"]
    content: Annotated[Listed[Annotated[Text | Image, Field(discriminator="type")]], OR_TEXT]


DocumentSource = Base64PdfSource | PlainTextSource | ContentSource | UrlSource | FileSource


class Document(Strict):
    type: Literal["document"]
    source: Annotated[DocumentSource, Field(discriminator="type")]
    title: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    context: Annotated[str, Field(min_length=1)] | None = None
    citations: CitationSwitch | None = None
    cache_control: CacheControl | None = None


class SearchResult(Strict):
    type: Literal["search_result"]
    source: str
    title: str
    content: Listed[Text]
    citations: CitationSwitch | None = None
    cache_control: CacheControl | None = None


class ToolUse(Strict):
    type: Literal["tool_use"]
    id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None
    cache_control: CacheControl | None = None


class ToolReference(Strict):
    type: Literal["tool_reference"]
    tool_name: str
    cache_control: CacheControl | None = None


class BrowserState(Loose):
    """What a page looked like to the browser toolset, whose tools are not served here."""

    type: Literal["browser_state"]
    cache_control: CacheControl | None = None


ToolResultBlock = Annotated[
    Text | Image | Document | SearchResult | ToolReference | BrowserState,
    Field(discriminator="type"),
]


class ToolResult(Strict):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$")]
    content: Annotated[Listed[ToolResultBlock], OR_TEXT] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None
    cache_control: CacheControl | None = None


class Thinking(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinking(Strict):
    type: Literal["redacted_thinking"]
    data: str


HostedType = Literal[
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "advisor_tool_result",
    "fallback",
]
HOSTED: tuple[str, ...] = get_args(HostedType)


class HostedBlock(Loose):
    """What hosted models leave in a history: calls of server tools and their results."""

    type: HostedType
    cache_control: CacheControl | None = None


class Compaction(Loose):
    """What a hosted model made of an earlier part of the conversation; null when it failed."""

    type: Literal["compaction"]
    content: str | None = None
    cache_control: CacheControl | None = None


class ContainerUpload(Strict):
    type: Literal["container_upload"]
    file_id: str
    cache_control: CacheControl | None = None


class NamedTool(Strict):
    type: Literal["tool_reference"]
    name: str


class ToolChange(Strict):
    """A tool that appears or goes in the middle of a conversation (system role only)."""

    type: Literal["tool_addition", "tool_removal"]
    tool: Annotated[NamedTool, OnlyTag("tool_reference")]
    cache_control: CacheControl | None = None


ContentBlock = Annotated[
    Text
    | Image
    | Document
    | SearchResult
    | ToolUse
    | ToolResult
    | Thinking
    | RedactedThinking
    | HostedBlock
    | Compaction
    | ContainerUpload
    | ToolChange,
    Field(discriminator="type"),
]
