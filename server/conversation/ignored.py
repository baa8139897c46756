"""What a request asks of the hosted service that has no effect here, by name.

Accepted, because clients send it to everyone; named, so that nobody believes that it was done.
"""

from collections.abc import Iterator

from senryu.server.wire.requests import MessagesRequest, Prompted

from .messages import Thinking

_WITHOUT_MEANING = (
    "inference_geo",
    "fallbacks",
    "fallback_credit_token",
    "safeguards",
    "compaction",
    "tags",
    "billing_policy",
    "user_profile_id",
)


def ignored_fields(request: Prompted, thinking: Thinking | None) -> Iterator[str]:
    """Those outside the messages. A default that is stated asks for nothing."""
    if isinstance(request, MessagesRequest) and request.service_tier == "standard_only":
        yield "service_tier"
    yield from (name for name in _WITHOUT_MEANING if getattr(request, name, None))
    if request.thinking is not None and request.thinking.type == "between_tools":
        yield "thinking"
    if request.output_config is not None:
        if thinking is None and request.output_config.effort not in (None, "high"):
            yield "output_config.effort"
        if request.output_config.task_budget is not None:
            yield "output_config.task_budget"
    for tool in request.tools or ():
        callers = getattr(tool, "allowed_callers", None) or ()
        if any(caller != "direct" for caller in callers):
            yield "tools.allowed_callers"
