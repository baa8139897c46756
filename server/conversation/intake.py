"""From a request as it came over the wire to what was asked: every 400 about meaning starts here.

In: the validated wire models, and the terms on which they are read. Out: a `Conversation`, the
`Demands` on its answer and a `Sampling`, or an error with the location first. What this server does
not do is refused by name or listed in `ignored`, never passed over in silence. Nothing here knows
HTTP, a clock, a tokenizer or an engine; the files beside this one read one subject each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessagesRequest, Prompted

from .cache_marks import marked, read_marks
from .content import ContentReader, check_citations, check_current_rules
from .editing import Edit
from .edits import read_edits
from .ignored import ignored_fields
from .messages import Conversation, Demands, Sampling, TextBlock, Thinking, ToolChoice
from .schema_subset import Subset
from .schemas import check_schema, required_first
from .terms import CLASSIC, Terms
from .thinking import read_thinking
from .tools import read_choice, read_tools
from .turns import read_turns
from .walk import every_block

__all__ = ["Asked", "Terms", "read_request", "read_sampling"]

_FORMAT_BETAS = frozenset({"structured-outputs-2025-11-13", "structured-outputs-2025-12-15"})
# Claude Code begins its system prompt with a line that differs from request to request: with it no
# two would share the beginning of a prompt (contract 7). It is known by its shape, a name and
# `key=value` pairs, so that a text about it stays.
_BILLING_LINE = re.compile(
    r"x-anthropic-billing-header:"
    r"(?:[ \t]*[\w.-]+=[^;\s]*(?:;|(?=[ \t]*(?:\n|\Z))))+"
    r"[ \t]*(?:\n+|\Z)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks."""

    conversation: Conversation
    demands: Demands
    edits: tuple[Edit, ...] | None
    """What is to be left out of a long conversation; None when the request says nothing of it."""
    ignored: tuple[str, ...]
    """Names of what was accepted and has no effect here."""


def read_request(request: Prompted, terms: Terms) -> Asked:
    """Raises InvalidRequest, or NotFound for a file."""
    _refuse_by_name(request, terms)
    blocks = tuple(every_block(request.messages))
    read_marks(request, blocks)
    check_current_rules(blocks, terms)
    subset = Subset()
    toolbox = read_tools(request.tools or (), terms, subset)
    thinking = read_thinking(request, terms)
    schema = _output_schema(request, terms, subset)
    cited = check_citations(blocks, terms, formatted=schema is not None)
    reader = ContentReader(request.messages, blocks, terms, toolbox)
    conversation = Conversation(
        system=tuple(_system(request.system or [])),
        messages=read_turns(request.messages, reader, toolbox, terms),
        tools=toolbox.visible,
    )
    choice = read_choice(request.tool_choice, toolbox, declared=bool(request.tools))
    _check_thinking_with(choice, request)
    _check_prefill(conversation, terms, thinking, schema, choice)
    if terms.strict:
        _check_manual_thinking(request)
    ignored = [*ignored_fields(request, thinking), *reader.ignored]
    if cited:
        ignored.append("citations")
    return Asked(
        conversation=conversation,
        demands=Demands(
            callable_tools=toolbox.callable,
            tool_choice=choice,
            thinking=thinking,
            output_schema=schema,
        ),
        edits=read_edits(request.context_management, terms),
        ignored=tuple(dict.fromkeys(ignored)),
    )


def read_sampling(request: MessagesRequest, terms: Terms, *, limit: int) -> Sampling:
    """How to draw the answer. `limit` is the most tokens that the model may be asked for. Raises
    InvalidRequest."""
    _check_knobs(request, terms)
    if request.max_tokens > limit:
        raise InvalidRequest(
            f"max_tokens: {request.max_tokens} > {limit}, which is the maximum allowed number of "
            f"output tokens for {terms.model}"
        )
    if request.max_tokens == 0:
        _check_prewarm(request)
    # The smallest share that top_p can leave is that of the likeliest token.
    smallest = request.top_p == 0
    return Sampling(
        max_tokens=request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None or smallest else request.top_p,
        top_k=1 if smallest else request.top_k or 0,
        stop_sequences=tuple(_stop_sequences(request.stop_sequences or [])),
    )


def _refuse_by_name(request: Prompted, terms: Terms) -> None:
    if request.thread is not None:
        # The SDK's tool runner repeats the request unthreaded on exactly this answer (1.9.1).
        raise InvalidRequest(
            "thread: message threads are not supported by this server",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )
    if request.speed == "fast":
        raise InvalidRequest(f"speed: 'fast' is not supported by {terms.model}; use 'standard'")
    if request.mcp_servers:
        raise InvalidRequest(
            "mcp_servers: this server does not connect to MCP servers; remove them"
        )
    if not isinstance(request, MessagesRequest):
        return
    if request.container is not None:
        raise InvalidRequest("container: there is no code execution on this server")
    user = request.metadata and request.metadata.user_id
    if terms.strict and user and len(user) > 256:
        raise InvalidRequest("metadata.user_id: String should have at most 256 characters")


def _system(texts: Sequence[wire.Text]) -> Iterator[TextBlock]:
    for index, block in enumerate(texts):
        text = block.text
        if not text:
            raise InvalidRequest("system: text content blocks must be non-empty")
        if index == 0:
            text = _BILLING_LINE.sub("", text, count=1) if _BILLING_LINE.match(text) else text
        if text:
            yield from marked([TextBlock(text=text)], block)


def _output_schema(request: Prompted, terms: Terms, subset: Subset) -> Mapping[str, Any] | None:
    """What the text of the answer has to fit; its old name is read as well (contract 1.8.2)."""
    form = request.output_config.format if request.output_config is not None else None
    location = "output_config.format"
    if request.output_format is not None:
        if terms.strict and not _FORMAT_BETAS & terms.betas:
            raise InvalidRequest(
                "output_format: This field is deprecated. Use 'output_config.format' instead."
            )
        if form is not None:
            raise InvalidRequest(
                "output_format: cannot be combined with output_config.format; send only the latter"
            )
        form, location = request.output_format, "output_format"
    if form is None:
        return None
    check_schema(form.schema_, f"{location}.schema")
    if terms.strict:
        subset.check(form.schema_, f"{location}.schema")
    return required_first(form.schema_)


def _check_thinking_with(choice: ToolChoice, request: Prompted) -> None:
    if choice.forced and request.thinking is not None and request.thinking.type == "enabled":
        raise InvalidRequest("Thinking may not be enabled when tool_choice forces tool use.")


def _check_manual_thinking(request: Prompted) -> None:
    """Under a budget the answer that tools were called in has to begin with what was thought."""
    if request.thinking is None or request.thinking.type != "enabled":
        return
    spoken = [(n, each) for n, each in enumerate(request.messages) if each.role != "system"]
    for index, message in reversed(spoken):
        if message.role == "user":
            continue
        if index and request.messages[index - 1].role == "assistant":
            continue  # its turn began earlier
        kinds = [block.type for block in message.content]
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            raise InvalidRequest(
                f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
                f"found `{kinds[0]}`. When `thinking` is enabled, a final `assistant` message must "
                "start with a thinking block. Send the thinking blocks back, or disable thinking"
            )
        return


def _check_prefill(
    conversation: Conversation,
    terms: Terms,
    thinking: Thinking | None,
    schema: Mapping[str, Any] | None,
    choice: ToolChoice,
) -> None:
    start = conversation.prefill
    if start is None:
        return
    if not terms.prefill:
        raise InvalidRequest(
            "This model does not support assistant message prefill. The conversation must end "
            "with a user message."
        )
    if start and start[-1].isspace():
        raise InvalidRequest(
            "messages: final assistant content cannot end with trailing whitespace"
        )
    others = (
        ("thinking", thinking is not None),
        ("output_config.format", schema is not None),
        ("a tool_choice that forces tool use", choice.forced),
    )
    for name, is_asked in others:
        if is_asked:
            raise InvalidRequest(
                f"messages: a final assistant message (prefill) cannot be combined with {name}"
            )


def _check_knobs(request: MessagesRequest, terms: Terms) -> None:
    """Which of the knobs may be turned, and how far (contract 1.2, 1.7.1)."""
    if terms.current and not terms.lenient_sampling:
        for name in ("temperature", "top_p", "top_k"):
            if getattr(request, name) is not None:
                raise InvalidRequest(
                    f"{name}: not supported with anthropic-version {terms.version}; remove it, or "
                    f"send anthropic-version: {CLASSIC}"
                )
    if terms.strict and request.temperature is not None and request.top_p is not None:
        raise InvalidRequest(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only "
            "one."
        )
    config = request.thinking
    if terms.lenient_sampling or not terms.thinks:
        return
    if config is None or config.type not in ("enabled", "adaptive"):
        return
    when = "when thinking is enabled or in adaptive mode"
    if request.temperature not in (None, 1):
        raise InvalidRequest(f"`temperature` may only be set to 1 {when}. Remove it or set it to 1")
    if request.top_k is not None:
        raise InvalidRequest(f"`top_k` may not be set {when}. Remove it")
    if request.top_p is not None and request.top_p < 0.95:
        raise InvalidRequest(
            f"`top_p` may only be set from 0.95 to 1 {when}. Remove it or raise it"
        )


def _check_prewarm(request: MessagesRequest) -> None:
    """`max_tokens: 0` only reads the prompt (contract 5.6)."""
    config, choice = request.thinking, request.tool_choice
    has_format = request.output_config is not None and request.output_config.format is not None
    others = (
        ("stream", bool(request.stream)),
        ("thinking", config is not None and config.type == "enabled"),
        ("output_config.format", has_format or request.output_format is not None),
        ("tool_choice", choice is not None and choice.type in ("any", "tool")),
    )
    for name, is_asked in others:
        if is_asked:
            raise InvalidRequest(
                "max_tokens: 0 reads the prompt and writes nothing, so it cannot be combined with "
                f"{name}"
            )


def _stop_sequences(sequences: Sequence[str]) -> Iterator[str]:
    for sequence in sequences:
        if not sequence:
            raise InvalidRequest("stop_sequences: each stop sequence must be non-empty")
        if sequence.isspace():
            raise InvalidRequest("stop_sequences: each stop sequence must contain non-whitespace")
        yield sequence
