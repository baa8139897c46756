"""Request bodies of the Messages API, and the one sentence that says what is wrong with one.

Bytes in, a validated `MessagesRequest` or `CountTokensRequest` out (contract 1.2, 1.11), or
`InvalidRequest` with the first failing location in the contract's form, `<loc>: <message>`.
Every documented field has its shape here; what a field means is `conversation.intake`'s affair.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from .blocks import OR_TEXT, CacheControl, ContentBlock, Listed, Loose, OnlyTag, Strict, Text
from .errors import InvalidRequest
from .tools import Tool, ToolChoice


class MessageParam(Strict):
    role: Literal["user", "assistant", "system"]
    content: Annotated[Listed[ContentBlock], OR_TEXT]
    # Only on system messages, and only with a beta (contract 1.3.2).
    clear_at: Literal["next_user_message", "never"] | None = None
    output_config: dict[str, Any] | None = None


class ThinkingEnabled(Strict):
    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024)]
    display: Literal["summarized", "omitted", "updates"] | None = None


class ThinkingAdaptive(Strict):
    type: Literal["adaptive"]
    display: Literal["summarized", "omitted", "updates"] | None = None


class ThinkingDisabled(Strict):
    type: Literal["disabled"]


class ThinkingBetweenTools(Strict):
    type: Literal["between_tools"]


ThinkingConfig = Annotated[
    ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | ThinkingBetweenTools,
    Field(discriminator="type"),
]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonSchemaFormat | None = None
    task_budget: dict[str, Any] | None = None


class Metadata(Strict):
    # The hosted limit is 256 characters; Claude Code puts a JSON text here.
    user_id: Annotated[str, Field(max_length=4096)] | None = None
    # Ours: what the client calls this kind of work; the ledger and the counters part by it.
    task: Annotated[str, Field(max_length=64)] | None = None


class Diagnostics(Strict):
    previous_message_id: str | None = None


class Turns(Strict):
    type: Literal["thinking_turns"]
    value: Annotated[int, Field(ge=1)]


class All(Strict):
    type: Literal["all"]


class Tokens(Strict):
    type: Literal["input_tokens"]
    value: Annotated[int, Field(ge=0)]


class ToolUses(Strict):
    type: Literal["tool_uses"]
    value: Annotated[int, Field(ge=0)]


def _all_in_full(value: Any) -> Any:
    return {"type": "all"} if value == "all" else value


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "bool"


class ClearThinking(Strict):
    type: Literal["clear_thinking_20251015"]
    keep: (
        Annotated[
            All | Turns,
            Field(discriminator="type"),
            BeforeValidator(_all_in_full, json_schema_input_type=Literal["all"] | All | Turns),
        ]
        | None
    ) = None


class ClearToolUses(Strict):
    type: Literal["clear_tool_uses_20250919"]
    trigger: Annotated[Tokens | ToolUses, Field(discriminator="type")] | None = None
    keep: Annotated[ToolUses, OnlyTag("tool_uses")] | None = None
    clear_at_least: Annotated[Tokens, OnlyTag("input_tokens")] | None = None
    exclude_tools: Listed[str] | None = None
    clear_tool_inputs: (
        Annotated[
            Annotated[bool, Tag("bool")] | Annotated[Listed[str], Tag("list")],
            Discriminator(_kind),
        ]
        | None
    ) = None


class Compact(Loose):
    type: Literal["compact_20260112"]


Edit = Annotated[ClearThinking | ClearToolUses | Compact, Field(discriminator="type")]


class ContextManagement(Strict):
    edits: Listed[Edit] | None = None


SystemPrompt = Annotated[Listed[Text], OR_TEXT]


class Prompted(Strict):
    """The fields that shape the prompt: common to Messages and count_tokens."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[Listed[MessageParam], Field(max_length=100_000)]
    system: SystemPrompt | None = None
    tools: Listed[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: JsonSchemaFormat | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard", "fast"] | None = None
    mcp_servers: Annotated[Listed[dict[str, Any]], Field(max_length=20)] | None = None
    thread: dict[str, Any] | None = None


class MessagesRequest(Prompted):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=0)]
    stream: bool | None = None
    # Hosted models document no limit; each one is looked for in every piece of the answer.
    stop_sequences: Annotated[Listed[str], Field(max_length=1000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    inference_geo: str | None = None
    diagnostics: Diagnostics | None = None
    container: Any = None
    # Preview fields of hosted deployments: nothing they could mean here (contract 1.9).
    fallbacks: Any = None
    fallback_credit_token: Any = None
    safeguards: Any = None
    tags: Any = None
    billing_policy: Any = None
    user_profile_id: Any = None


class CountTokensRequest(Prompted):
    """POST /v1/messages/count_tokens. Hand-written clients reuse the body of a message."""

    max_tokens: int | None = None
    stream: bool | None = None
    compaction: Any = None
    safeguards: Any = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """A field of a message that is null asks for nothing here either."""
        if not isinstance(value, dict):
            return value
        others = MessagesRequest.model_fields.keys() - cls.model_fields.keys()
        return {key: each for key, each in value.items() if each is not None or key not in others}


Body = TypeVar("Body", bound=Prompted)

# What is read is later written again and compared, by encoders that stop at some 250 levels.
_MOST_LEVELS = 200
# An integer of more than 64 bits has so many digits. All digits are made one, for no search for a
# pattern is half as fast.
_LONG = b"0" * 19
_ALL_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


def parse(shape: type[Body], body: bytes) -> Body:
    """The body as `shape`. Raises InvalidRequest with the contract's words."""
    try:
        return shape.model_validate(read_object(body))
    except ValidationError as error:
        raise InvalidRequest(_first_failure(error)) from None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises InvalidRequest.

    orjson reads it, because it refuses what the contract refuses: lone surrogates, NaN, bytes that
    are not UTF-8. But it makes floats of long integers, and a call that this server wrote has to
    come back as it was: where there may be one the JSON is read again.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not valid JSON: an object is required")
    if _deeper(value, _MOST_LEVELS):
        raise InvalidRequest(
            f"The request body is nested too deeply; send at most {_MOST_LEVELS} levels"
        )
    return json.loads(body) if _LONG in body.translate(_ALL_ZEROS) else value


def _deeper(value: Any, levels: int) -> bool:
    """Whether `value` is nested deeper than that; one level after the other, for no depth of
    calls could follow a hostile one."""
    nodes = [value]
    for _ in range(levels):
        inner = (node.values() if isinstance(node, dict) else node for node in nodes)
        nodes = [child for held in inner for child in held if isinstance(child, dict | list)]
        if not nodes:
            return False
    return True


def _first_failure(error: ValidationError) -> str:
    failure = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location = ".".join(str(part) for part in failure["loc"])
    # pydantic's own words for these name our classes and their fields.
    if failure["type"] in ("model_type", "model_attributes_type"):
        return f"{location}: Input should be a valid dictionary"
    return f"{location}: {failure['msg']}"
