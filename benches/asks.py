"""What a workload asks for: requests as the Messages API has them, and who asks which after which.

Values only. A workload makes them, a client sends them, to whichever API the server speaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["call", "json"]
"""What an answer must hold: a tool call whose input is an object, or one JSON value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request."""

    body: Mapping[str, Any]
    """Of `POST /v1/messages`, without `model` and `stream`."""
    form: Form | None = None
    counted: int | None = None
    """Tokens of the prompt as the server's `count_tokens` says, where it was asked."""

    @property
    def max_tokens(self) -> int:
        return int(self.body["max_tokens"])


Conversation = tuple[Ask, ...]
"""Requests of one client, each sent when the one before it was answered."""
