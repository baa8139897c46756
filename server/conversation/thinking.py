"""Thinking: whether the model is to think, and its own thoughts when they come back (contract 1.7).

What a client returns is believed only when this server signed it: the model would take a stranger's
words for its own. In lenient reading such a block is dropped, in strict reading refused, unless it
is one of another model's of this server: a conversation may go from one to the other.
"""

from functools import partial

from senryu.server.wire import blocks, requests
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, Prompted

from .messages import Thinking, ThinkingBlock
from .terms import Terms

_INTERLEAVED = "interleaved-thinking-2025-05-14"
_UPDATES = "thinking-display-updates-2026-08-18"


def read_thinking(request: Prompted, terms: Terms) -> Thinking | None:
    """How the model is to think before it answers; None when it is not to. Raises
    InvalidRequest."""
    match request.thinking:
        case requests.ThinkingEnabled() as config:
            if not terms.thinks:
                raise InvalidRequest(
                    '"thinking.type.enabled" is not supported for this model. '
                    f'{terms.model} does not reason: use "thinking.type.disabled", or leave '
                    "thinking out."
                )
            _check_display(config, terms)
            _check_budget(config.budget_tokens, request, terms)
            return _thinking(config.budget_tokens, config.display, request)
        case requests.ThinkingAdaptive() as config:
            _check_display(config, terms)
            # A model that does not reason finds nothing to think about.
            return _thinking(None, config.display, request) if terms.thinks else None
        case requests.ThinkingBetweenTools() if terms.strict:
            raise InvalidRequest('"thinking.type.between_tools" is not supported for this model.')
        case _:
            return None


def _thinking(budget: int | None, display: str | None, request: Prompted) -> Thinking:
    effort = request.output_config and request.output_config.effort
    return Thinking(budget=budget, effort=effort or "high", shown=display != "omitted")


def _check_display(
    config: requests.ThinkingEnabled | requests.ThinkingAdaptive, terms: Terms
) -> None:
    if config.display == "updates" and terms.strict and _UPDATES not in terms.betas:
        raise InvalidRequest(
            f"thinking.{config.type}.display: Input should be 'summarized' or 'omitted'"
        )


def _check_budget(budget: int, request: Prompted, terms: Terms) -> None:
    if isinstance(request, CountTokensRequest) or _INTERLEAVED in terms.betas:
        return  # a count has no answer; and interleaved thoughts may be longer than one answer
    most = getattr(request, "max_tokens", 0)
    if 0 < most <= budget:  # 0 is refused for a reason of its own
        raise InvalidRequest(
            "`max_tokens` must be greater than `thinking.budget_tokens`. The answer needs room "
            f"behind the thoughts: {most} is not more than {budget}"
        )


def returned_thought(
    block: blocks.Thinking, here: str, terms: Terms, *, latest: bool
) -> ThinkingBlock | None:
    """The thought as it was, also of a block that came back empty; None when it is not this
    model's or this model has no use for it. `latest`: it stands in the last assistant message.
    Raises InvalidRequest in strict reading."""
    thought = terms.signer.read(block.thinking, block.signature, model=terms.model)
    issued = partial(terms.signer.issued, block.signature)
    another_models = issued() and not issued(model=terms.model)
    if thought is None and terms.strict and not another_models:
        if latest and issued():
            raise InvalidRequest(
                f"{here}: `thinking` or `redacted_thinking` blocks in the latest assistant "
                "message cannot be modified. These blocks must remain as they were in the "
                "original response."
            )
        raise InvalidRequest(f"{here}: Invalid `signature` in `thinking` block")
    if thought is None or not terms.thinks:
        return None
    return ThinkingBlock(thinking=thought, signature=block.signature)


def check_redacted(here: str, terms: Terms) -> None:
    """This server redacts nothing, so no such block is its own. Raises InvalidRequest in strict
    reading."""
    if terms.strict:
        raise InvalidRequest(f"{here}: Invalid `data` in `redacted_thinking` block")
