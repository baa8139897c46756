"""Requests that are over, as those who watch hear of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from senryu.server.conversation.messages import Usage
from senryu.server.observing.watch import Exchange
from senryu.server.tenancy.account import Ended, Opened
from senryu.server.tenancy.callers import Caller

STARTED = 1_800_000_000_000  # ms
OPENED = Opened(
    id="msg_1",
    request_id="req_1",
    caller=Caller(name="ann", salt="a secret salt"),
    model="tiny",
    task="review",
    user_hash=None,
    tier="standard",
    batch_id=None,
    started_at=STARTED,
    prompt_tokens=100,
    max_tokens=50,
    stream=True,
)
ENDED = Ended(
    opened=OPENED,
    state="done",
    usage=Usage(
        input_tokens=30,
        output_tokens=21,
        thinking_tokens=5,
        cache_read_tokens=64,
        cache_creation_5m_tokens=4,
        cache_creation_1h_tokens=2,
    ),
    stop_reason="end_turn",
    ended_at=STARTED + 2_000,
    queued_ms=100,
    first_token_ms=1_000,
    cost=2_500_000,
)
EXCHANGE = Exchange(
    request_id="req_1",
    method="POST",
    path="/v1/messages",
    route="/v1/messages",
    status=200,
    error_type=None,
    key="ann",
    started_ns=STARTED * 1_000_000,
    ended_ns=(STARTED + 2_010) * 1_000_000,
)


@pytest.fixture
def exchange() -> Callable[..., Exchange]:
    """A request over HTTP, with what is `changed` of it."""
    return lambda **changed: replace(EXCHANGE, **changed)


@pytest.fixture
def answer() -> Callable[..., Ended]:
    """An answer that ended; what is `changed` may be of its beginning too."""

    def answer(**changed: Any) -> Ended:
        first = {name: changed.pop(name) for name in list(changed) if hasattr(OPENED, name)}
        return replace(ENDED, opened=replace(OPENED, **first), **changed)

    return answer
