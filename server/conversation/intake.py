"""From a request as it came over the wire to what was asked: every 400 about meaning starts here.

In: the validated wire models. Out: a `Conversation` and a `Sampling`, or `InvalidRequest` with
the location first. What the server does not honour yet is refused by name, never passed over.
This file knows no HTTP, no clock, no tokenizer and no engine.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessageParam, MessagesRequest, Prompted

from .messages import Conversation, Message, Sampling, TextBlock, system_note

# Blocks that only one of the two parties can have written (contract 1.3.1).
_PARTIES = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "image": "user",
    "search_result": "user",
    "tool_result": "user",
    "container_upload": "user",
    "compaction": "assistant",
    "tool_addition": "system",
    "tool_removal": "system",
} | dict.fromkeys(wire.HOSTED, "assistant")
_EDITS_WITHOUT_EFFECT = [
    {"type": "clear_thinking_20251015", "keep": keep} for keep in ("all", {"type": "all"})
]
_NOT_YET = "this server does not honour it yet; remove it from the request"


def read_conversation(request: Prompted, *, model: str, prefill: bool = True) -> Conversation:
    """What the model is to be shown.

    `model` stands in some of the messages; `prefill` says whether it may continue a started
    answer. Raises InvalidRequest.
    """
    _refuse_what_is_not_honoured(request, model)
    conversation = Conversation(
        system=tuple(_system(request.system or [])),
        messages=tuple(_merged(_messages(request.messages))),
    )
    _check_prefill(conversation, prefill)
    return conversation


def read_sampling(
    request: MessagesRequest, *, model: str, limit: int, refuse_knobs: str | None = None
) -> Sampling:
    """How to draw the answer.

    `limit` is the most tokens that `model` may be asked for. `refuse_knobs` names the API
    version under which temperature, top_p and top_k are refused whatever their value
    (contract 4.2). Raises InvalidRequest.
    """
    for name in ("temperature", "top_p", "top_k"):
        if refuse_knobs and getattr(request, name) is not None:
            raise InvalidRequest(
                f"{name}: not supported with anthropic-version {refuse_knobs}; remove it, or send "
                "anthropic-version: 2023-06-01"
            )
    if request.max_tokens > limit:
        raise InvalidRequest(
            f"max_tokens: {request.max_tokens} > {limit}, which is the maximum allowed number of "
            f"output tokens for {model}"
        )
    if request.max_tokens == 0:
        _check_prewarm(request)
    if request.top_p == 0:
        raise InvalidRequest("top_p: Input should be greater than 0")
    return Sampling(
        max_tokens=request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        stop_sequences=tuple(_stop_sequences(request.stop_sequences or [])),
    )


def _refuse_what_is_not_honoured(request: Prompted, model: str) -> None:
    if request.thread is not None:
        # The SDK's tool runner repeats the request unthreaded on exactly this answer (1.9.1).
        raise InvalidRequest(
            "thread: message threads are not supported by this server",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )
    if request.speed == "fast":
        raise InvalidRequest(f"speed: 'fast' is not supported by {model}; use 'standard'")
    match request.thinking:
        case None:
            pass
        case config if config.type == "enabled":
            raise InvalidRequest(
                f'"thinking.type.enabled" is not supported for this model. {model} does not '
                'reason: use "thinking.type.disabled", or leave thinking out.'
            )
        case config if config.type == "between_tools":
            raise InvalidRequest('"thinking.type.between_tools" is not supported for this model.')
        case _:
            pass  # disabled; and adaptive, under which a plain model finds nothing to think about
    for location, value in _unsupported_fields(request):
        if value:
            raise InvalidRequest(f"{location}: {_NOT_YET}")
    if isinstance(request, MessagesRequest) and request.container is not None:
        raise InvalidRequest("container: there is no code execution on this server")
    if request.context_management is not None:
        _check_edits(request.context_management.edits or [])
    for location in _cache_marks(request):
        # "not permitted" is what clients look for before they repeat without the field.
        raise InvalidRequest(f"{location}: not permitted: {_NOT_YET}")


def _unsupported_fields(request: Prompted) -> Iterator[tuple[str, Any]]:
    yield "tools", request.tools
    yield "tool_choice", request.tool_choice
    yield "output_config.format", request.output_config and request.output_config.format
    yield "output_format", request.output_format
    yield "mcp_servers", request.mcp_servers


def _check_edits(edits: Sequence[dict[str, Any]]) -> None:
    """To keep all thinking changes nothing, and Claude Code always asks for it (contract 1.9)."""
    for index, edit in enumerate(edits):
        if edit not in _EDITS_WITHOUT_EFFECT:
            raise InvalidRequest(f"context_management.edits.{index}: {_NOT_YET}")


def _cache_marks(request: Prompted) -> Iterator[str]:
    """Where cache breakpoints stand, in prefix order."""
    for index, text in enumerate(request.system or []):
        if text.cache_control:
            yield f"system.{index}.cache_control"
    for index, message in enumerate(request.messages):
        for place, block in enumerate(message.content):
            if getattr(block, "cache_control", None):
                yield f"messages.{index}.content.{place}.{block.type}.cache_control"
    if request.cache_control:
        yield "cache_control"


def _system(texts: Sequence[wire.Text]) -> Iterator[TextBlock]:
    for index, text in enumerate(texts):
        if not text.text:
            raise InvalidRequest("system: text content blocks must be non-empty")
        if text.citations:
            raise InvalidRequest(f"system.{index}.citations: {_NOT_YET}")
        yield TextBlock(text=text.text)


def _messages(params: Sequence[MessageParam]) -> Iterator[Message]:
    """The entries as turns of the two parties; what holds nothing for this model is left out."""
    if not params:
        raise InvalidRequest("messages: at least one message is required")
    last = len(params) - 1
    note: list[str] = []
    for index, param in enumerate(params):
        _check_place(index, params)
        if not param.content:
            if index == last and param.role == "assistant":
                continue  # an empty final answer is allowed and means nothing
            raise InvalidRequest(
                f"messages.{index}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
        content = tuple(_blocks(index, param))
        if param.role != "system":
            if content:
                yield Message(role=param.role, content=content)
            continue
        note.append("".join(block.text for block in content))
        if index == last or params[index + 1].role != "system":  # several in a row are one
            yield Message(role="user", content=(system_note("\n".join(note)),))
            note = []


def _check_place(index: int, params: Sequence[MessageParam]) -> None:
    """Whether an entry of this role may stand here, with these keys."""
    param = params[index]
    if index == 0 and param.role == "assistant":
        raise InvalidRequest('messages: first message must use the "user" role')
    if param.role == "system":
        if index == 0:
            raise InvalidRequest(
                "messages.0: role 'system' cannot open a conversation: "
                "use the top-level 'system' parameter for the initial system prompt"
            )
        if params[index - 1].role == "assistant":
            raise InvalidRequest(f"messages.{index}: role 'system' must follow a user message")
        if index + 1 < len(params) and params[index + 1].role == "user":
            raise InvalidRequest(
                f"messages.{index}: role 'system' must precede an assistant message, or be last"
            )
    for name in ("clear_at", "output_config"):  # only with a beta (contract 1.3.2)
        if getattr(param, name) is not None:
            raise InvalidRequest(f"messages.{index}.{name}: Extra inputs are not permitted")


def _blocks(index: int, param: MessageParam) -> Iterator[TextBlock]:
    for place, block in enumerate(param.content):
        here = f"messages.{index}.content.{place}"
        _check_party(here, block.type, param.role)
        match block:
            case wire.Text():
                # In the model's own words they are history, and go the way of its sources.
                if block.citations and param.role != "assistant":
                    raise InvalidRequest(f"{here}.text.citations: {_NOT_YET}")
                yield _text(block.text)
            case wire.Compaction():
                if block.content and not block.content.isspace():
                    yield TextBlock(text=block.content)
            case wire.Thinking() | wire.RedactedThinking():
                continue  # another model's reasoning is no error and no use to this one (1.7.4)
            case wire.HostedBlock():
                continue  # nor are the hosted service's own tools (1.3.1)
            case _:
                raise InvalidRequest(f"{here}: `{block.type}` blocks: {_NOT_YET}")


def _check_party(here: str, kind: str, role: str) -> None:
    if role == "system" and kind in ("tool_addition", "tool_removal"):  # only with a beta
        raise InvalidRequest(f"{here}: Extra inputs are not permitted")
    if role == "system" and kind != "text":
        raise InvalidRequest(
            f"{here}: text-only role 'system' messages require `text` blocks, not `{kind}`"
        )
    party = _PARTIES.get(kind, role)
    if party != role:
        raise InvalidRequest(f"{here}: `{kind}` blocks can only be in `{party}` messages")


def _text(text: str) -> TextBlock:
    if not text:
        raise InvalidRequest("messages: text content blocks must be non-empty")
    if text.isspace():
        raise InvalidRequest("messages: text content blocks must contain non-whitespace text")
    return TextBlock(text=text)


def _merged(messages: Iterable[Message]) -> Iterator[Message]:
    """Consecutive entries of one role are one turn (contract 1.3)."""
    for role, turns in groupby(messages, key=attrgetter("role")):
        yield Message(role=role, content=tuple(block for turn in turns for block in turn.content))


def _check_prefill(conversation: Conversation, allowed: bool) -> None:
    start = conversation.prefill
    if start is None:
        return
    if not allowed:
        raise InvalidRequest(
            "This model does not support assistant message prefill. The conversation must end "
            "with a user message."
        )
    if start and start[-1].isspace():
        raise InvalidRequest(
            "messages: final assistant content cannot end with trailing whitespace"
        )


def _check_prewarm(request: MessagesRequest) -> None:
    """`max_tokens: 0` only reads the prompt (contract 5.6)."""
    if request.stream:
        raise InvalidRequest(
            "max_tokens: 0 reads the prompt and writes nothing, so it cannot be combined with "
            "stream"
        )


def _stop_sequences(sequences: Sequence[str]) -> Iterator[str]:
    for sequence in sequences:
        if not sequence:
            raise InvalidRequest("stop_sequences: each stop sequence must be non-empty")
        if sequence.isspace():
            raise InvalidRequest("stop_sequences: each stop sequence must contain non-whitespace")
        yield sequence
