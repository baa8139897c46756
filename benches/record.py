"""What was measured, where, and with what; kept as JSON, and read again.

Comes in: figures. Goes out: a `Record`, the text of `record.json`, and the same again out of it.
Pure: `report` and `cli` write the files.
"""

import json
import statistics
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, cast, get_args, get_origin

from .client.sample import Sample
from .figures import Figures, Read, output_tokens, time_of, tpot
from .plan import Level, Plan
from .truth import Truth, merged

SCHEMA = 1


class NoRecord(Exception):
    """What was read is none. The text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """One figure over the repeats of a level."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One level, with all its repeats."""

    level: Level
    repeats: tuple[Figures, ...]
    first_tokens: tuple[float, ...] = ()
    """Times to the first token in seconds, of all repeats, at `figures.QUANTILES`."""

    def over(self, read: Read) -> Range | None:
        """A figure over the repeats that have it; None where none does."""
        values = [value for each in self.repeats if (value := read(each)) is not None]
        if not values:
            return None
        return Range(median=statistics.median(values), low=min(values), high=max(values))

    @property
    def truth(self) -> Truth:
        return merged([each.truth for each in self.repeats])

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.repeats)

    @property
    def failed(self) -> int:
        return sum(each.requests - each.good for each in self.repeats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the machine allows at one level."""

    level: Level
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run of the bench."""

    date: str
    command: str
    """What measures the same again, without the key."""
    machine: str
    here: bool
    """Whether the server is on this machine too; else `machine` is the client's."""
    versions: dict[str, str]
    """Of what is installed where the bench ran."""
    url: str
    api: str
    model: str
    plan: Plan
    levels: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    """Sentences that one has to know to read the figures."""
    interrupted: bool = False
    roofline: tuple[Ceiling, ...] = ()
    roofline_from: str = ""
    """What the ceilings were computed from, one sentence."""

    def ceiling(self, level: Level) -> float | None:
        """Output tokens a second that the machine allows; None: not known."""
        found = (each.tokens_per_second for each in self.roofline if each.level == level)
        return next(found, None)

    @property
    def truth(self) -> Truth:
        return merged([each.truth for each in self.levels])

    def value(self, *, curves: bool = True) -> dict[str, Any]:
        """For an encoder of JSON. Beside the repeats stand their medians, for who reads no more.
        `curves`: with the points of what is drawn."""
        told = {"bench": "bench", "schema": SCHEMA, **asdict(self)}
        for level, measured in zip(told["levels"], self.levels, strict=True):
            level["medians"] = _medians(measured)
            level["usage"] = str(measured.truth)
            if not curves:
                del level["first_tokens"]
        return cast(dict[str, Any], _rounded(told))

    def text(self) -> str:
        """Of `record.json`."""
        return json.dumps(self.value(), indent=1) + "\n"

    def line(self) -> str:
        """The last one that is printed."""
        return json.dumps(self.value(curves=False))


def _rounded(told: Any) -> Any:
    """Six digits: a clock has no more to say."""
    if isinstance(told, float):
        return float(f"{told:.6g}")
    if isinstance(told, dict):
        return {key: _rounded(value) for key, value in told.items()}
    return [_rounded(value) for value in told] if isinstance(told, list | tuple) else told


def _medians(measured: Measured) -> dict[str, Any]:
    reads: dict[str, Read] = {
        "output_tokens_per_second": lambda of: of.output_tokens_per_second,
        "total_tokens_per_second": lambda of: of.total_tokens_per_second,
        "requests_per_second": lambda of: of.requests_per_second,
        "ttft_p50": time_of("ttft", "p50"),
        "ttft_p99": time_of("ttft", "p99"),
        "itl_p50": time_of("itl", "p50"),
        "itl_p99": time_of("itl", "p99"),
        "tpot_p50": time_of("tpot", "p50"),
        "e2e_p50": time_of("e2e", "p50"),
        "e2e_p99": time_of("e2e", "p99"),
        "goodput": lambda of: of.goodput,
    }
    found = {name: measured.over(read) for name, read in reads.items()}
    return {name: None if each is None else each.median for name, each in found.items()}


def read(text: str, where: str) -> Record:
    """Raises NoRecord."""
    try:
        told = json.loads(text)
    except ValueError:
        raise NoRecord(f"{where} is no JSON") from None
    if not isinstance(told, dict) or told.get("bench") != "bench":
        raise NoRecord(f"{where} is no record of `senryu bench`")
    if told.get("schema") != SCHEMA:
        raise NoRecord(f"{where} has schema {told.get('schema')}, and this reads {SCHEMA}")
    try:
        record: Record = _built(Record, told)
    except (KeyError, TypeError, ValueError) as error:
        raise NoRecord(f"{where} is a record with something missing or wrong: {error}") from None
    return record


def _built(kind: Any, told: Any) -> Any:
    """A value of this type out of what JSON made of it. Members that are not known are left out."""
    origin, given = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        names = [each.name for each in fields(kind) if each.name in told]
        return kind(**{name: _built(hints[name], told[name]) for name in names})
    if origin in (types.UnionType, typing.Union):
        if told is None and type(None) in given:
            return None
        return _built(next(each for each in given if each is not type(None)), told)
    if origin is tuple:
        kinds = [given[0]] * len(told) if given[-1] is ... else given
        return tuple(_built(each, value) for each, value in zip(kinds, told, strict=True))
    if origin is dict:
        return {key: _built(given[1], value) for key, value in told.items()}
    if origin is typing.Literal:
        if told not in given:
            raise ValueError(f"{told!r} is none of {', '.join(map(str, given))}")
        return told
    if kind is float and isinstance(told, int) and not isinstance(told, bool):
        return float(told)
    if not isinstance(told, kind):
        raise TypeError(f"{told!r} is no {kind.__name__}")
    return told


def sample_value(sample: Sample, level: Level, repeat: int, *, gaps: bool) -> Mapping[str, Any]:
    """A line of `samples.jsonl`. Times are in seconds since the client's clock began."""
    waited = None if sample.first_token is None else sample.first_token - sample.due
    told: dict[str, Any] = {
        "level": str(level),
        "repeat": repeat,
        "due": sample.due,
        "sent": sample.sent,
        "first_token": sample.first_token,
        "last_token": sample.last_token,
        "ended": sample.ended,
        "ttft": waited,
        "tpot": tpot(sample),
        "e2e": sample.ended - sample.due,
        "output_tokens": output_tokens(sample),
        "pieces": sample.pieces,
        "asked_tokens": sample.asked_tokens,
        "counted": sample.counted,
        "usage": None if sample.usage is None else asdict(sample.usage),
        "stop_reason": sample.stop_reason,
        "failure": None if sample.failure is None else asdict(sample.failure),
    }
    return told | {"gaps": list(sample.gaps)} if gaps else told
