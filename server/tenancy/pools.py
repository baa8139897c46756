"""All that is counted for one key, or for one workspace; `limiter` has one of these for each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from .buckets import Bucket, Period
from .limits import NO_LIMITS, Limits

Dimension = Literal["requests", "input-tokens", "output-tokens"]

# Sums of refills are not exact; nobody is kept waiting for the last millionth.
_NEARLY = 1e-6
# How long to wait for other requests to end: nobody knows, and to ask again costs little.
_SOON = 1


def day_of(now: float) -> int:
    """The number of the day, UTC."""
    return math.floor(now / 86_400)


def month_of(now: float) -> int:
    """The number of the month, UTC."""
    date = datetime.fromtimestamp(now, UTC)
    return date.year * 12 + date.month


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a request may use at most."""

    input_tokens: int
    output_tokens: int
    cost: int
    paced: bool = True
    """Whether limits per minute and at one time count it. They do not count what nobody waits for:
    requests of batches, which take only what others leave."""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one more request is not admitted."""

    text: str
    retry_after: int | None
    """Seconds; None when nobody can say."""
    spent: bool = False
    """Whether a budget is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A limit per minute as it stands."""

    limit: int
    left: float
    full_at: float
    """When all of it is there again."""


@dataclass(slots=True, kw_only=True)
class Pool:
    """The state of a key or a workspace."""

    whose: str
    """As a message begins: `The key ann`."""
    limits: Limits = NO_LIMITS
    running: int = 0
    held_output: int = 0
    requests: Bucket = field(default_factory=Bucket)
    input: Bucket = field(default_factory=Bucket)
    output: Bucket = field(default_factory=Bucket)
    day: Period = field(default_factory=lambda: Period(day_of))
    month: Period = field(default_factory=lambda: Period(month_of))

    def refusals(self, now: float, *, paced: bool = True) -> Iterator[Refusal]:
        """What stands in the way of one more request."""
        if paced:
            yield from self._over_pace(now)
        yield from self._over_budget(now)

    def _over_pace(self, now: float) -> Iterator[Refusal]:
        limits = self.limits
        for limit, bucket, what, held, needed in (
            (limits.requests_per_minute, self.requests, "requests", 0, 1 - _NEARLY),
            (limits.input_tokens_per_minute, self.input, "input tokens", 0, _NEARLY),
            (
                limits.output_tokens_per_minute,
                self.output,
                "output tokens",
                self.held_output,
                _NEARLY,
            ),
        ):
            if limit is None:
                continue
            left = bucket.left(limit, now)
            if left < needed:
                yield self._too_fast(limit, what, needed - left)
            elif left - held < needed:
                yield self._held(f"its {limit:,} {what} per minute")
        if limits.concurrent_requests is not None and self.running >= limits.concurrent_requests:
            yield Refusal(
                text=f"{self.whose} may have {limits.concurrent_requests:,} requests running at "
                "one time; try again when one of them has ended",
                retry_after=_SOON,
            )

    def _too_fast(self, limit: int, what: str, lack: float) -> Refusal:
        allowed = f"{self.whose} may use {limit:,} {what} per minute"
        if not limit:
            return Refusal(text=f"{allowed}; have the limit raised", retry_after=None)
        wait = max(1, math.ceil(lack * 60 / limit))
        return Refusal(text=f"{allowed}; try again in {wait:,} seconds", retry_after=wait)

    def _held(self, what: str) -> Refusal:
        return Refusal(
            text=f"{self.whose} has requests running that may use up {what}; try again when they "
            "have ended",
            retry_after=_SOON,
        )

    def _over_budget(self, now: float) -> Iterator[Refusal]:
        limits = self.limits
        for period, name, tokens, dollars in (
            (self.month, "month", limits.tokens_per_month, limits.usd_per_month),
            (self.day, "day", limits.tokens_per_day, limits.usd_per_day),
        ):
            if tokens is None and dollars is None:
                continue
            period.begin(now)
            for limit, used, held, unit in (
                (tokens, period.tokens, period.held_tokens, f"{tokens or 0:,} tokens"),
                (_billionths(dollars), period.cost, period.held_cost, f"{dollars or 0:,g} USD"),
            ):
                if limit is None:
                    continue
                budget = f"its budget of {unit} for this {name}"
                if used >= limit:
                    yield Refusal(
                        text=f"{self.whose} has spent {budget}; wait for the next one (UTC), or "
                        "have the limit raised",
                        retry_after=None,
                        spent=True,
                    )
                elif used + held >= limit:
                    yield self._held(f"what is left of {budget}")

    def hold(self, need: Need, now: float) -> "Held":
        """Count a request that was admitted."""
        limits, taken = self.limits, 0.0
        if need.paced:
            self.requests.take(1, limits.requests_per_minute, now)
            taken = self.input.take(need.input_tokens, limits.input_tokens_per_minute, now)
            self.running += 1
            self.held_output += need.output_tokens
        for period in (self.day, self.month):
            period.begin(now)
            period.held_tokens += need.tokens
            period.held_cost += need.cost
        return Held(
            pool=self, need=need, at=now, input=taken, day=self.day.number, month=self.month.number
        )

    def gauges(self, now: float) -> Iterator[tuple[Dimension, Gauge]]:
        """Its limits per minute. What is only held is not yet used."""
        limits = self.limits
        dimensions: tuple[tuple[Dimension, int | None, Bucket], ...] = (
            ("requests", limits.requests_per_minute, self.requests),
            ("input-tokens", limits.input_tokens_per_minute, self.input),
            ("output-tokens", limits.output_tokens_per_minute, self.output),
        )
        for name, limit, bucket in dimensions:
            if limit is not None:
                left = bucket.left(limit, now)
                wait = (limit - left) * 60 / limit if limit else 0.0
                yield name, Gauge(limit=limit, left=left, full_at=now + wait)

    def idle(self, now: float) -> bool:
        """Whether nothing is known of it that a new one would not know."""
        self.day.begin(now)
        self.month.begin(now)
        used = self.month.tokens or self.month.cost or self.day.tokens or self.day.cost
        full = all(gauge.left >= gauge.limit for _, gauge in self.gauges(now))
        return not self.running and not used and full and not self.requests.past


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one pool holds for one request."""

    pool: Pool
    need: Need
    at: float
    input: float
    """As much of the bucket was taken."""
    day: int
    month: int

    def settle(self, *, used: Need, tokens: int, now: float) -> None:
        """It ended, and used this."""
        pool = self.pool
        if self.need.paced:
            self._settle_pace(used, now)
        for period, number in ((pool.day, self.day), (pool.month, self.month)):
            if period.begin(now) == number:  # else it is the account of a day that has gone
                period.held_tokens -= self.need.tokens
                period.held_cost -= self.need.cost
                period.tokens += tokens
                period.cost += used.cost

    def _settle_pace(self, used: Need, now: float) -> None:
        pool, limits = self.pool, self.pool.limits
        pool.running -= 1
        pool.held_output -= self.need.output_tokens
        more = used.input_tokens - self.input
        if more > 0:
            pool.input.take(more, limits.input_tokens_per_minute, now)
        else:
            pool.input.give_back(-more, self.at, limits.input_tokens_per_minute, now)
        pool.output.take(used.output_tokens, limits.output_tokens_per_minute, now)


def _billionths(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * 10**9)
