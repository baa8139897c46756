"""What is measured: values, made of what was said on the command line. Pure.

Comes in: words such as `1,8,64` and `ttft=2,tpot=0.1`. Goes out: a `Plan`. What cannot be read is a
ValueError with one sentence.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

from .figures import Slo
from .workloads.base import Shape

Kind = Literal["concurrency", "rate", "batch"]
ApiName = Literal["messages", "openai"]

USUAL_REQUESTS = 16
USUAL_REPEATS = 3
USUAL_CONCURRENCY = "1,8"
_MOST_WARM_UP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How hard the server is asked."""

    kind: Kind
    value: float
    """Conversations at a time, conversations begun a second, or requests of one batch."""

    def __str__(self) -> str:
        match self.kind:
            case "concurrency":
                return f"concurrency {self.value:g}"
            case "rate":
                return f"rate {self.value:g}/s"
            case "batch":
                return f"batch of {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that says what is sent, but for the server."""

    workload: str
    shape: Shape
    levels: tuple[Level, ...]
    requests: int | None = None
    """Of a level, once; None: sixteen, or two for each that are asked at a time."""
    repeats: int = USUAL_REPEATS
    warm_up: int | None = None
    """Conversations before each level; None: as many as are asked at a time, two to sixteen."""
    slo: Slo
    seed: int

    def conversations(self, level: Level, turns: int) -> int:
        """How many there are of a level, once; `turns`: requests of each. At least as many as are
        held at a time, or the level would not be what it says."""
        match level.kind:
            case "batch":
                return int(level.value)
            case "rate":
                return max(1, math.ceil((self.requests or USUAL_REQUESTS) / turns))
            case "concurrency":
                width = int(level.value)
                wanted = self.requests or max(USUAL_REQUESTS, 2 * width * turns)
                return max(width, math.ceil(wanted / turns))

    def warm_ups(self, level: Level) -> int:
        """Conversations that are held and not measured before a level."""
        if self.warm_up is not None:
            return self.warm_up
        width = int(level.value) if level.kind == "concurrency" else 2
        return max(2, min(width, _MOST_WARM_UP))


def read_levels(kind: Kind, words: str) -> tuple[Level, ...]:
    """`1,8,64`; `0.5,1` of rates only. Each once, in the order that was said."""
    found: list[Level] = []
    for word in words.split(","):
        level = Level(kind=kind, value=_number(word, f"--{kind}"))
        if kind != "rate" and level.value != int(level.value):
            raise ValueError(f"--{kind}: {word.strip()} is no whole number")
        if level not in found:
            found.append(level)
    return tuple(found)


def read_slo(words: str | None) -> Slo:
    """`ttft=2,tpot=0.1,e2e=30`, in seconds, each as one likes."""
    known = [field.name for field in fields(Slo)]
    told: dict[str, float] = {}
    for word in (words or "").split(","):
        if not word.strip():
            continue
        name, is_set, value = (part.strip() for part in word.partition("="))
        if not is_set or name not in known:
            raise ValueError(f"--slo: {word.strip()!r} is none of {', '.join(known)} with =SECONDS")
        told[name] = _number(value, "--slo")
    return Slo(**told)


def _number(word: str, flag: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{flag}: {word.strip()!r} is no number") from None
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{flag}: {word.strip()} is not more than 0")
    return value
