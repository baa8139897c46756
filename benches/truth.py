"""Whether a server's usage is true: what it says of tokens, against what can be seen.

Comes in: samples, and what the engine's own counters grew by where it shows them. Goes out: a
`Truth`. Pure. Each check asks only those requests of which it can tell.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .client.sample import Sample, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What an engine has counted since it was started."""

    prompt: int
    output: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown(Counters):
    """What it counted while one level was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise of usage, and of how many requests it held."""

    name: str
    met: int
    of: int
    example: str | None = None
    """One of those that broke it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """All checks that could be made."""

    checks: tuple[Check, ...] = ()

    @property
    def verdict(self) -> str:
        """`true`, `false` or `not told`."""
        if not self.checks:
            return "not told"
        return "true" if all(check.met == check.of for check in self.checks) else "false"

    def __str__(self) -> str:
        broken = next((check for check in self.checks if check.met < check.of), None)
        if broken is None:
            return self.verdict
        return f"false: {broken.of - broken.met} of {broken.of}, such as: {broken.example}"


COUNTED = "prompt tokens == count_tokens"
BOUNDED = "output tokens == max_tokens where that ended it"
SEEN = "output tokens >= pieces that came"
ENGINE = "sums == the engine's counters"
TOLD = "every answer has usage"


def truth(samples: Sequence[Sample], grown: Grown | None = None) -> Truth:
    """Answers that ended are asked, of a wrong form too; of the others usage is not whole."""
    ended = [each for each in samples if each.failure is None or each.failure.kind == "malformed"]
    told = [(each, each.usage) for each in ended if each.usage is not None]
    if not told:
        return Truth()
    silent = len(ended) - len(told)
    found = [
        _check(COUNTED, told, _as_counted),
        _check(BOUNDED, told, _as_bounded),
        _check(SEEN, told, _as_seen),
        Check(
            name=TOLD,
            met=len(told),
            of=len(ended),
            example="an answer ended without usage" if silent else None,
        ),
        # Of requests that failed the engine has counted what nobody was told of.
        _as_engine(told, grown) if len(told) == len(samples) else None,
    ]
    return Truth(checks=tuple(check for check in found if check is not None and check.of))


def merged(truths: Sequence[Truth]) -> Truth:
    """The same checks over all of them."""
    found: dict[str, Check] = {}
    for check in (check for each in truths for check in each.checks):
        before = found.get(check.name, Check(name=check.name, met=0, of=0))
        found[check.name] = Check(
            name=check.name,
            met=before.met + check.met,
            of=before.of + check.of,
            example=before.example or check.example,
        )
    return Truth(checks=tuple(found.values()))


Told = Sequence[tuple[Sample, Usage]]
# None: it cannot be told of this one; "": the check holds; else what is wrong.
Judge = Callable[[Sample, Usage], str | None]


def _check(name: str, told: Told, judge: Judge) -> Check:
    said = [word for sample, usage in told if (word := judge(sample, usage)) is not None]
    wrong = [word for word in said if word]
    return Check(
        name=name,
        met=len(said) - len(wrong),
        of=len(said),
        example=wrong[0] if wrong else None,
    )


def _as_counted(sample: Sample, usage: Usage) -> str | None:
    if sample.counted is None:
        return None
    if usage.prompt == sample.counted:
        return ""
    return f"usage says {usage.prompt} prompt tokens, and count_tokens said {sample.counted}"


def _as_bounded(sample: Sample, usage: Usage) -> str | None:
    if sample.stop_reason != "max_tokens":
        return None
    if usage.output == sample.asked_tokens:
        return ""
    return f"max_tokens, {sample.asked_tokens}, ended an answer of {usage.output} output tokens"


def _as_seen(sample: Sample, usage: Usage) -> str | None:
    pieces = sample.pieces
    if usage.output >= pieces:
        return ""
    return f"usage says {usage.output} output tokens, and {pieces} pieces came"


def _as_engine(told: Told, grown: Grown | None) -> Check | None:
    """None where the engine shows no counters, or answered somebody else meanwhile."""
    if grown is None or grown.requests != len(told):
        return None
    output = sum(usage.output for _, usage in told)
    prompt = sum(usage.prompt for _, usage in told)
    wrong = [
        f"the engine counted {counted} {kind} tokens, and the usage of all answers is {said}"
        for kind, counted, said in (
            ("output", grown.output, output),
            ("prompt", grown.prompt, prompt),
        )
        if counted != said
    ]
    return Check(name=ENGINE, met=2 - len(wrong), of=2, example=wrong[0] if wrong else None)


_LINE = re.compile(
    r"^vllm:(prompt_tokens|generation_tokens|request_success)(?:_total)?(?:\{[^}]*\})? (\S+)$", re.M
)


def read_counters(page: str) -> Counters | None:
    """vLLM's, of a page for Prometheus; None where it has none. One line for each engine, and one
    for each way in which a request ended: they are added up."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(page):
        found[name] = found.get(name, 0.0) + float(value)
    if not {"prompt_tokens", "generation_tokens", "request_success"} <= found.keys():
        return None
    return Counters(
        prompt=int(found["prompt_tokens"]),
        output=int(found["generation_tokens"]),
        requests=int(found["request_success"]),
    )


def growth(before: Counters | None, after: Counters | None) -> Grown | None:
    """None where either is not known, or the engine was started again between them."""
    if before is None or after is None or after.requests < before.requests:
        return None
    return Grown(
        prompt=after.prompt - before.prompt,
        output=after.output - before.output,
        requests=after.requests - before.requests,
    )
