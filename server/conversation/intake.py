"""From a request as it came over the wire to what was asked: every 400 about meaning starts here.

In: the validated wire models. Out: a `Conversation` and a `Sampling`, or `InvalidRequest` with
the location first. What the server does not honour yet is refused by name, never passed over.
This file knows no HTTP, no clock, no tokenizer and no engine.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessageParam, MessagesRequest, Prompted

from .messages import Conversation, Message, Role, Sampling, TextBlock

# Blocks that only one of the two parties can have written (contract 1.3.1).
_PARTIES: dict[str, Role] = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "image": "user",
    "search_result": "user",
    "tool_result": "user",
    "container_upload": "user",
}
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
    if isinstance(request, MessagesRequest) and request.container:
        raise InvalidRequest("container: there is no code execution on this server")
    for location in _cache_marks(request):
        # "not permitted" is what clients look for before they repeat without the field.
        raise InvalidRequest(f"{location}: not permitted: {_NOT_YET}")


def _unsupported_fields(request: Prompted) -> Iterator[tuple[str, Any]]:
    yield "tools", request.tools
    yield "tool_choice", request.tool_choice
    yield "output_config.format", request.output_config and request.output_config.format
    yield "output_format", request.output_format
    context = request.context_management
    yield "context_management.edits", context and context.edits
    yield "mcp_servers", request.mcp_servers


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
    for text in texts:
        if not text.text:
            raise InvalidRequest("system: text content blocks must be non-empty")
        yield TextBlock(text=text.text)


def _messages(params: Sequence[MessageParam]) -> Iterator[Message]:
    if not params:
        raise InvalidRequest("messages: at least one message is required")
    last = len(params) - 1
    for index, param in enumerate(params):
        role = _role(index, param)
        if not param.content:
            if index == last and role == "assistant" and index > 0:
                continue  # an empty final answer is allowed and means nothing
            raise InvalidRequest(
                f"messages.{index}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
        yield Message(role=role, content=tuple(_blocks(index, role, param.content)))


def _role(index: int, param: MessageParam) -> Role:
    if param.role == "system":
        if index == 0:
            raise InvalidRequest(
                "messages.0: role 'system' cannot open a conversation: "
                "use the top-level 'system' parameter for the initial system prompt"
            )
        raise InvalidRequest(f"messages.{index}: role 'system' is not supported on this model")
    for name in ("clear_at", "output_config"):  # of system messages only (contract 1.3.2)
        if getattr(param, name) is not None:
            raise InvalidRequest(f"messages.{index}.{name}: Extra inputs are not permitted")
    if index == 0 and param.role == "assistant":
        raise InvalidRequest('messages: first message must use the "user" role')
    return param.role


def _blocks(index: int, role: Role, content: Sequence[wire.ContentBlock]) -> Iterator[TextBlock]:
    for place, block in enumerate(content):
        party = _PARTIES.get(block.type, role)
        if party != role:
            raise InvalidRequest(
                f"messages.{index}.content.{place}: `{block.type}` blocks can only be in "
                f"`{party}` messages"
            )
        match block:
            case wire.Text():
                if block.citations:
                    raise InvalidRequest(
                        f"messages.{index}.content.{place}.text.citations: {_NOT_YET}"
                    )
                yield _text(block.text)
            case wire.Thinking() | wire.RedactedThinking():
                continue  # another model's reasoning is no error and no use to this one (1.7.4)
            case _:
                raise InvalidRequest(
                    f"messages.{index}.content.{place}: `{block.type}` blocks: {_NOT_YET}"
                )


def _text(text: str) -> TextBlock:
    if not text:
        raise InvalidRequest("messages: text content blocks must be non-empty")
    if text.isspace():
        raise InvalidRequest("messages: text content blocks must contain non-whitespace text")
    return TextBlock(text=text)


def _merged(messages: Iterator[Message]) -> Iterator[Message]:
    """Consecutive entries of one role are one turn (contract 1.3)."""
    held: Message | None = None
    for message in messages:
        if held and held.role == message.role:
            held = Message(role=held.role, content=held.content + message.content)
            continue
        if held:
            yield held
        held = message
    if held:
        yield held


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
