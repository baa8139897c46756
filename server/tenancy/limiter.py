"""Holds callers to their limits: a key to its own, and all keys of a workspace to that one's.

Each limit per minute is a bucket that refills all the time. A request is admitted while something
is left of every limit, and all that it may use is held for it until it ends. So requests that run
at once pass a limit together by no more than the one that took the last of it; how much that one
needs is not asked.

For one event loop, in which nothing here waits, and for one server. Nothing is on a disk: at start
the ledger says what was used before.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from senryu.server.wire.errors import BudgetSpent, RateLimited

from .callers import Caller
from .pools import Gauge, Held, Need, Pool, Refusal

# Pools that know nothing are looked for when there are twice as many as after the last time.
_FEW = 1_000


@dataclass(slots=True, kw_only=True)
class Hold:
    """What is held for one request until it ends."""

    held: tuple[Held, ...]
    running: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a key used before this server ran, in one second or in all of a day or month."""

    key_id: str | None
    workspace_id: str | None
    at: float
    requests: int
    input_tokens: int
    """Those read from the cache are not among them."""
    output_tokens: int
    cost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the ledger knows: the last minutes by the second, this day and this month."""

    recent: Sequence[Used]
    day: Sequence[Used]
    month: Sequence[Used]


class Limiter:
    """Who used how much lately."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys: dict[str | None, Pool] = {}
        self._workspaces: dict[str, Pool] = {}
        self._many = _FEW

    @property
    def known(self) -> int:
        """Keys and workspaces of which something is known."""
        return len(self._keys) + len(self._workspaces)

    def check(self, caller: Caller) -> None:
        """Raises RateLimited or BudgetSpent when nothing is left for one more request."""
        self._admit(self._pools(caller), self._clock())

    def hold(
        self,
        caller: Caller,
        *,
        input_tokens: int,
        output_tokens: int,
        cost: int,
        paced: bool = True,
    ) -> Hold:
        """A place for a request that uses at most this; one that is not `paced` is held to budgets
        alone. Raises RateLimited or BudgetSpent."""
        now, pools = self._clock(), self._pools(caller)
        self._admit(pools, now, paced=paced)
        need = Need(input_tokens=input_tokens, output_tokens=output_tokens, cost=cost, paced=paced)
        return Hold(held=tuple(pool.hold(need, now) for pool in pools))

    def settle(
        self, hold: Hold, *, input_tokens: int, output_tokens: int, total_tokens: int, cost: int
    ) -> None:
        """The request ended, and used this. To say so again changes nothing.

        `input_tokens` without those read from the cache; `total_tokens` is what budgets of tokens
        count.
        """
        if hold.running:
            hold.running = False
            now = self._clock()
            used = Need(input_tokens=input_tokens, output_tokens=output_tokens, cost=cost)
            for held in hold.held:
                held.settle(used=used, tokens=total_tokens, now=now)

    def headers(self, caller: Caller) -> dict[str, str]:
        """Of each limit per minute the tightest there is (contract 3.3); none without limits."""
        now, tightest = self._clock(), dict[str, Gauge]()
        for pool in self._pools(caller):
            for name, gauge in pool.gauges(now):
                names = (name, "tokens") if name.endswith("-tokens") else (name,)
                for each in names:
                    if each not in tightest or gauge.left < tightest[each].left:
                        tightest[each] = gauge
        return dict(header for name, gauge in tightest.items() for header in _headers(name, gauge))

    def remember(self, past: Past, now: float) -> None:
        """What was used before this server ran. Once, before the first request."""
        for used in sorted(past.recent, key=lambda used: used.at):
            for pool in self._used_by(used):
                pool.requests.past.append((used.at, used.requests))
                pool.input.past.append((used.at, used.input_tokens))
                pool.output.past.append((used.at, used.output_tokens))
        for name, sums in (("day", past.day), ("month", past.month)):
            for used in sums:
                for pool in self._used_by(used):
                    period = pool.day if name == "day" else pool.month
                    period.begin(now)
                    period.tokens += used.input_tokens + used.output_tokens
                    period.cost += used.cost

    def _admit(self, pools: Iterable[Pool], now: float, *, paced: bool = True) -> None:
        refusals = [refusal for pool in pools for refusal in pool.refusals(now, paced=paced)]
        if refusals:
            worst = max(refusals, key=_longest)
            if worst.spent:
                raise BudgetSpent(worst.text)
            raise RateLimited(worst.text, retry_after=worst.retry_after)

    def _pools(self, caller: Caller) -> list[Pool]:
        self._forget_the_idle()
        pools = [self._of_key(caller.key_id, caller.name)]
        pools[0].limits = caller.limits
        if caller.workspace_id is not None:
            pools.append(self._of_workspace(caller.workspace_id))
            pools[1].limits = caller.workspace_limits
        return pools

    def _used_by(self, used: Used) -> Iterator[Pool]:
        yield self._of_key(used.key_id, used.key_id or "")
        if used.workspace_id is not None:
            yield self._of_workspace(used.workspace_id)

    def _of_key(self, key_id: str | None, name: str) -> Pool:
        pool = self._keys.get(key_id)
        if pool is None:
            pool = self._keys[key_id] = Pool(whose="")
        pool.whose = f"The key {name}" if key_id else "Everybody together"
        return pool

    def _of_workspace(self, workspace_id: str) -> Pool:
        pool = self._workspaces.get(workspace_id)
        if pool is None:
            self._forget_the_idle()
            name = workspace_id.removeprefix("settings:@")
            pool = self._workspaces[workspace_id] = Pool(whose=f"The workspace {name}")
        return pool

    def _forget_the_idle(self) -> None:
        """Keys that are gone are idle once their month has gone."""
        if self.known < self._many:
            return
        now = self._clock()
        self._keys = {name: pool for name, pool in self._keys.items() if not pool.idle(now)}
        self._workspaces = {
            name: pool for name, pool in self._workspaces.items() if not pool.idle(now)
        }
        self._many = max(_FEW, 2 * self.known)


def _longest(refusal: Refusal) -> tuple[bool, float]:
    return refusal.spent, math.inf if refusal.retry_after is None else refusal.retry_after


def _headers(name: str, gauge: Gauge) -> Iterator[tuple[str, str]]:
    left = max(0, math.floor(gauge.left + 1e-6))
    if name.endswith("tokens") and gauge.limit >= 1_000:  # of less, none would seem to be left
        left = min(gauge.limit, round(left, -3))
    begins = f"anthropic-ratelimit-{name}"
    full_at = datetime.fromtimestamp(math.ceil(gauge.full_at), UTC)
    yield f"{begins}-limit", str(gauge.limit)
    yield f"{begins}-remaining", str(left)
    yield f"{begins}-reset", full_at.strftime("%Y-%m-%dT%H:%M:%SZ")
