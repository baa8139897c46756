"""A plan, measured: warm-up, then each level as often as it is to be repeated.

Comes in: a plan, a workload, somebody who asks. Goes out: what was measured, also when it was
stopped in the middle. Texts are written and counted before the clock runs. Warm-up and repeats have
seeds of their own: none may find in a cache what another has sent.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .asking import Asker
from .asks import Conversation
from .client.sample import Sample
from .figures import QUANTILES, Figures, figures, first_tokens, percentile, span
from .plan import Level, Plan
from .record import Measured
from .truth import Counters, growth
from .workloads.base import Order, Workload

_SETTLE = 0.3
"""Seconds after which an engine has usually counted what it told last."""
_LOOKS = 10
"""So often they are asked for, where an engine is late to count."""
_LATE = 0.1
"""Seconds that a client may be late without a word about it."""


class Watcher(Protocol):
    """Shows whoever waits that something goes on."""

    def begins(self, what: str, requests: int) -> None: ...

    def heard(self, sample: Sample) -> None: ...

    def ends(self, figures: Figures | None) -> None: ...


@dataclass(slots=True)
class Found:
    """What was measured so far."""

    levels: list[Measured] = field(default_factory=list)
    samples: list[tuple[Level, int, Sample]] = field(default_factory=list)
    """With the level and the number of the repeat, from 1."""
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


async def measure(plan: Plan, workload: Workload, asker: Asker, watcher: Watcher) -> Found:
    """All levels in order. A cancellation ends it, and what was measured is kept."""
    run = _Run(plan, workload, asker, watcher)
    try:
        for level in plan.levels:
            await run.level(level)
    except asyncio.CancelledError as stopped:
        run.stop(stopped)
    run.conclude()
    return run.found


class _Run:
    def __init__(self, plan: Plan, workload: Workload, asker: Asker, watcher: Watcher) -> None:
        self.found = Found()
        self._plan = plan
        self._workload = workload
        self._asker = asker
        self._watcher = watcher
        self._ordered = 0
        self._unsent = 0
        self._sizes: set[int | None] = set()
        self._where, self._requests, self._ended = "", 0, 0

    async def level(self, level: Level) -> None:
        if number := self._plan.warm_ups(level):
            conversations = await self._written(level, "warm-up", number)
            self._begin(f"{level}, warm-up", conversations)
            await self._asked(level, conversations, "warm-up", [])
            self._watcher.ends(None)
        repeats: list[tuple[Figures, list[Sample]]] = []
        for repeat in range(1, self._plan.repeats + 1):
            wanted = self._plan.conversations(level, self._workload.turns)
            conversations = await self._written(level, str(repeat), wanted)
            self._begin(f"{level}, repeat {repeat} of {self._plan.repeats}", conversations)
            samples: list[Sample] = []
            before = await self._asker.counters()
            after: Counters | None = None
            try:
                await self._asked(level, conversations, str(repeat), samples)
                after = await self._settled(before, len(samples))
            finally:
                # Also of a repeat that was stopped: what it has heard counts.
                told: Figures | None = None
                if samples:
                    grown = growth(before, after)
                    told = figures(samples, span(samples), self._plan.slo, grown)
                    repeats.append((told, samples))
                    self._keep(level, repeats)
                self._watcher.ends(told)
            self._unsent += self._requests - len(samples)

    def _begin(self, what: str, conversations: Sequence[Conversation]) -> None:
        self._where, self._requests, self._ended = what, sum(map(len, conversations)), 0
        self._watcher.begins(what, self._requests)

    def _keep(self, level: Level, repeats: Sequence[tuple[Figures, list[Sample]]]) -> None:
        """The level as it is now, in the place of what it was one repeat ago."""
        levels = self.found.levels
        if levels and levels[-1].level == level:
            levels.pop()
        number, (_, samples) = len(repeats), repeats[-1]
        self.found.samples += [(level, number, sample) for sample in samples]
        waited = sorted(first_tokens(each for _, heard in repeats for each in heard))
        levels.append(
            Measured(
                level=level,
                repeats=tuple(told for told, _ in repeats),
                first_tokens=tuple(percentile(waited, at) for at in QUANTILES) if waited else (),
            )
        )

    def stop(self, stopped: asyncio.CancelledError) -> None:
        """Says how far it came."""
        self.found.interrupted = True
        running = sum(told for told in stopped.args if isinstance(told, int))
        left_out = f"; left out are those that were running: {running}" if running else ""
        where = f" in {self._where}, when {self._ended} of its {self._requests} requests had ended"
        self.found.notes.append(f"It was stopped{where if self._where else ''}{left_out}.")

    async def _written(self, level: Level, which: str, number: int) -> list[Conversation]:
        order = Order(
            shape=self._plan.shape,
            conversations=number,
            seed=f"{self._plan.seed} {level} {which}",
            first=self._ordered,
        )
        self._ordered += number
        conversations = await self._workload.write(order, self._asker.count)
        self._sizes |= {ask.counted for conversation in conversations for ask in conversation}
        return conversations

    async def _asked(
        self,
        level: Level,
        conversations: Sequence[Conversation],
        which: str,
        samples: list[Sample],
    ) -> None:
        def heard(sample: Sample) -> None:
            samples.append(sample)
            self._ended += 1
            self._watcher.heard(sample)

        seed = f"{self._plan.seed} {level} {which} times"
        await self._asker.ask(level, conversations, seed=seed, heard=heard)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The client has put away what was running, and came back instead of breaking off.
            raise asyncio.CancelledError

    async def _settled(self, before: Counters | None, requests: int) -> Counters | None:
        """The counters when they have all that was answered, or as they are at last."""
        after = before
        for _ in range(_LOOKS):
            if before is None or after is None or after.requests - before.requests >= requests:
                break
            await asyncio.sleep(_SETTLE)
            after = await self._asker.counters()
        return after

    def conclude(self) -> None:
        """Writes down what one has to know to read the figures."""
        notes, workload, shape = self.found.notes, self._workload, self._plan.shape
        if workload.exact and self._sizes:
            wanted = shape.input + shape.prefix
            counted = sorted(size for size in self._sizes if size is not None)
            if not counted:
                notes.append(
                    f"The server cannot count tokens: prompts have about {wanted} words, and how "
                    "many tokens that is, only its usage says."
                )
            elif counted != [wanted]:
                notes.append(
                    f"Prompts are {_from_to(counted)} tokens, and {wanted} were asked for: this "
                    "workload, with the server's template, cannot be cut to that length."
                )
        if workload.has is not None and self._ordered > workload.has:
            notes.append(
                f"The file has fewer requests, {workload.has}, than were sent, {self._ordered}: "
                "those that were sent again may have been answered out of a cache."
            )
        if self._unsent:
            notes.append(
                f"{self._unsent} requests were never sent: one before them in their conversation "
                "failed."
            )
        late = max((each.late for _, _, each in self.found.samples), default=0.0)
        if late > _LATE:
            notes.append(
                f"The client turned to requests up to {late:.2f} s late: it was the limit, and the "
                "figures count that as waiting."
            )


def _from_to(numbers: Sequence[int]) -> str:
    low, high = numbers[0], numbers[-1]
    return f"{low}" if low == high else f"{low} to {high}"
