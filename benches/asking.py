"""How the bench reaches a server: asks it, counts with it, reads its engine's counters.

`Asker` is what a run needs; `OverHttp` is the one that measures. The doors to HTTP open when it is
made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .asks import Conversation
from .client.sample import Sample
from .plan import Level
from .truth import Counters, read_counters

if TYPE_CHECKING:
    from .client.load import Target

Heard = Callable[[Sample], None]
"""Told of each sample as it ends, so that nothing is lost when the run is stopped."""


class Unaskable(Exception):
    """The API has no word for what a workload says. The text is one sentence."""


class Asker(Protocol):
    """One server, as a run meets it."""

    async def count(self, body: Mapping[str, Any]) -> int | None:
        """Tokens of the body's prompt; None where the server cannot count."""

    async def counters(self) -> Counters | None:
        """What the engine counted so far; None where it does not show it."""

    async def ask(
        self, level: Level, conversations: Sequence[Conversation], *, seed: str, heard: Heard
    ) -> None:
        """Holds the conversations as hard as the level says. Raises Unaskable."""


class OverHttp:
    """Asks a server over HTTP."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._counts = True

    async def count(self, body: Mapping[str, Any]) -> int | None:
        from .client.load import count

        counted = await count(self._target, body) if self._counts else None
        # What cannot count once is not asked for every prompt.
        self._counts = counted is not None
        return counted

    async def counters(self) -> Counters | None:
        import httpx

        # Some want the key in one header, some in the other.
        headers = {"x-api-key": self._target.key, "authorization": f"Bearer {self._target.key}"}
        try:
            async with httpx.AsyncClient(timeout=10, headers=headers) as client:
                reply = await client.get(f"{self._target.url}/metrics")
        except httpx.HTTPError:
            return None
        return read_counters(reply.text) if reply.status_code == 200 else None

    async def ask(
        self, level: Level, conversations: Sequence[Conversation], *, seed: str, heard: Heard
    ) -> None:
        from .batches import one_batch
        from .client.load import closed_loop, open_loop

        target = self._target
        try:
            match level.kind:
                case "concurrency":
                    width = int(level.value)
                    await closed_loop(target, conversations, concurrency=width, heard=heard)
                case "rate":
                    rate, times = level.value, zlib.crc32(seed.encode())
                    await open_loop(target, conversations, rate=rate, seed=times, heard=heard)
                case "batch":
                    await one_batch(target, conversations, heard=heard)
        except ValueError as error:
            raise Unaskable(str(error)) from error
