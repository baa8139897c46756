"""What the samples of one level come to. Pure: values in, values out.

Comes in: samples, and the seconds that they took together. Goes out: `Figures`. The words are used
so:

- **TTFT** is the time to the first token: from when a request was due to the first piece of its
  answer that holds something. In an open loop that counts what a late client would leave out.
- **ITL** are the gaps between such pieces, of all answers together. Pieces that one read brought
  have a gap of 0.
- **TPOT** of an answer is the time from its first piece to its last, over its tokens less one.
- **E2E** is the time from when a request was due to the end of its answer.
- **Throughput** is the tokens of all good answers over the time from when the first request was
  due to when the last one ended, whatever became of those between.
- **Goodput** is the requests a second that ended well and met every bound of the SLO.
- **Output tokens** are those of the server's usage; where it tells none, the pieces are counted.
- A **percentile** is drawn linearly between the two values that are next to it, as numpy does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Literal

from .client.sample import Sample
from .truth import Grown, Truth, truth

QUANTILES = tuple(step / 50 for step in range(51))
"""The points at which a distribution is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request has to keep to count for the goodput, in seconds. None: it does not matter."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def __str__(self) -> str:
        told = (("ttft", self.ttft), ("tpot", self.tpot), ("e2e", self.e2e))
        return ",".join(f"{name}={value:g}" for name, value in told if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How one time is spread, in seconds."""

    p50: float
    p90: float
    p99: float
    mean: float
    most: float
    count: int
    """Values that it is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Requests that failed in one way."""

    kind: str
    status: int | None
    count: int
    example: str
    """What one of them was told."""
    retry_after: tuple[float, float] | None = None
    """Seconds to wait that the server named: the fewest and the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One level, once."""

    requests: int
    """All that ended, well or not."""
    good: int
    failures: tuple[Failed, ...]
    seconds: float
    """From when the first was due to when the last one ended."""
    requests_per_second: float
    """Good ones."""
    output_tokens: int
    prompt_tokens: int | None
    """None where not every good answer has usage."""
    output_tokens_per_second: float
    total_tokens_per_second: float | None
    ttft: Spread | None
    itl: Spread | None
    tpot: Spread | None
    e2e: Spread | None
    met_slo: int | None
    """Requests; None without an SLO."""
    cached: float | None
    """Share of the prompts that was read from a cache; None where the server does not say."""
    pieces_for_tokens: int
    """Good answers without usage, whose pieces stand for tokens."""
    stop_reasons: dict[str, int] = field(default_factory=dict)
    truth: Truth

    @property
    def goodput(self) -> float | None:
        """Requests a second that met the SLO."""
        return None if self.met_slo is None else _over(self.met_slo, self.seconds)

    @property
    def met_share(self) -> float | None:
        """Of all requests, those that failed among them."""
        return None if self.met_slo is None else _over(self.met_slo, self.requests)


Time = Literal["ttft", "itl", "tpot", "e2e"]
Which = Literal["p50", "p90", "p99", "mean", "most"]
Read = Callable[[Figures], float | None]
"""One figure of them."""


def time_of(time: Time, which: Which) -> Read:
    """The p50 of the TTFT, for one."""

    def read(of: Figures) -> float | None:
        spread: Spread | None = getattr(of, time)
        return None if spread is None else float(getattr(spread, which))

    return read


def figures(
    samples: Sequence[Sample], seconds: float, slo: Slo, grown: Grown | None = None
) -> Figures:
    """`grown`: what the engine's own counters grew by meanwhile."""
    good = [sample for sample in samples if sample.failure is None]
    output = sum(map(output_tokens, good))
    told = [sample.usage for sample in good if sample.usage is not None]
    prompt = sum(usage.prompt for usage in told) if len(told) == len(good) else None
    read = [usage.cache_read for usage in told if usage.cache_read is not None]
    return Figures(
        requests=len(samples),
        good=len(good),
        failures=tuple(_failures(samples)),
        seconds=seconds,
        requests_per_second=_over(len(good), seconds),
        output_tokens=output,
        prompt_tokens=prompt,
        output_tokens_per_second=_over(output, seconds),
        total_tokens_per_second=None if prompt is None else _over(prompt + output, seconds),
        ttft=spread(first_tokens(good)),
        itl=spread(gap for sample in good for gap in sample.gaps),
        tpot=spread(time for sample in good if (time := tpot(sample)) is not None),
        e2e=spread(sample.ended - sample.due for sample in good),
        met_slo=sum(meets(sample, slo) for sample in good) if str(slo) else None,
        cached=_over(sum(read), prompt) if prompt and read else None,
        pieces_for_tokens=len(good) - len(told),
        stop_reasons=dict(Counter(sample.stop_reason or "none" for sample in good)),
        truth=truth(samples, grown),
    )


def span(samples: Sequence[Sample]) -> float:
    """Seconds from when the first was due to when the last one ended; 0 without any."""
    if not samples:
        return 0.0
    return max(sample.ended for sample in samples) - min(sample.due for sample in samples)


def output_tokens(sample: Sample) -> int:
    """As the server counts them, or else the pieces that came."""
    return sample.usage.output if sample.usage is not None else sample.pieces


def first_tokens(samples: Iterable[Sample]) -> list[float]:
    """The waiting of those that had a first token and did not fail, in seconds."""
    return [
        sample.first_token - sample.due
        for sample in samples
        if sample.failure is None and sample.first_token is not None
    ]


def tpot(sample: Sample) -> float | None:
    """Seconds a token after the first; None of answers of one token."""
    tokens = output_tokens(sample)
    if tokens < 2 or sample.first_token is None or sample.last_token is None:
        return None
    return (sample.last_token - sample.first_token) / (tokens - 1)


def meets(sample: Sample, slo: Slo) -> bool:
    """Whether a good answer kept every bound. What it has not, as an answer of one token has no
    TPOT, it cannot break; but an answer in which nothing came has broken that of the TTFT."""
    waited = None if sample.first_token is None else sample.first_token - sample.due
    each = tpot(sample)
    return (
        sample.failure is None
        and (slo.ttft is None or (waited is not None and waited <= slo.ttft))
        and (slo.tpot is None or each is None or each <= slo.tpot)
        and (slo.e2e is None or sample.ended - sample.due <= slo.e2e)
    )


def spread(values: Iterable[float]) -> Spread | None:
    """None without any."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Spread(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=fsum(ordered) / len(ordered),
        most=ordered[-1],
        count=len(ordered),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in rising order, at least one; `share` from 0 to 1."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _failures(samples: Iterable[Sample]) -> list[Failed]:
    """By kind and status, the most frequent first."""
    found: dict[tuple[str, int | None], list[tuple[str, float | None]]] = {}
    for sample in samples:
        if (why := sample.failure) is not None:
            found.setdefault((why.kind, why.status), []).append((why.text, why.retry_after))
    failed = []
    for (kind, status), told in found.items():
        waits = [wait for _, wait in told if wait is not None]
        failed.append(
            Failed(
                kind=kind,
                status=status,
                count=len(told),
                example=told[0][0],
                retry_after=(min(waits), max(waits)) if waits else None,
            )
        )
    return sorted(failed, key=lambda each: (-each.count, each.kind, each.status or 0))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
