"""Two records beside each other: ratios, and which is faster where that can be said.

Comes in: two `Record`s. Goes out: text for a terminal and a value for JSON. Pure. One is called
faster only where not one of its repeats was slower than any of the other's.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .figures import Read, time_of
from .plan import Level
from .record import Measured, Range, Record
from .table import grid, heading, rate_of, seconds_of

Verdict = Literal["A", "B", "cannot be told"]


class NotAlike(Exception):
    """Records that answer different questions. The text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure that is compared."""

    name: str
    read: Read
    more_is_better: bool
    show: Callable[[float], str]


MEASURES = (
    Measure(
        name="output tokens/s",
        read=lambda of: of.output_tokens_per_second,
        more_is_better=True,
        show=rate_of,
    ),
    Measure(
        name="TTFT p50",
        read=time_of("ttft", "p50"),
        more_is_better=False,
        show=seconds_of,
    ),
    Measure(
        name="TTFT p99",
        read=time_of("ttft", "p99"),
        more_is_better=False,
        show=seconds_of,
    ),
    Measure(
        name="TPOT p50",
        read=time_of("tpot", "p50"),
        more_is_better=False,
        show=seconds_of,
    ),
    Measure(
        name="E2E p50",
        read=time_of("e2e", "p50"),
        more_is_better=False,
        show=seconds_of,
    ),
    Measure(
        name="goodput/s",
        read=lambda of: of.goodput,
        more_is_better=True,
        show=rate_of,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure at one level."""

    level: Level
    name: str
    a: Range
    b: Range
    ratio: float
    """B over A, of the medians."""
    low: float
    """The lowest that a pair of repeats gives."""
    high: float
    faster: Verdict
    shown: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rows, and what makes them less sure."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def compare(a: Record, b: Record) -> Comparison:
    """Raises NotAlike."""
    if a.plan.workload != b.plan.workload:
        raise NotAlike(f"A asked {a.plan.workload} and B {b.plan.workload}: measure one as both")
    if a.plan.shape != b.plan.shape:
        raise NotAlike(f"A asked with {_shape(a)}, and B with {_shape(b)}: measure one as both")
    at_b = {each.level: each for each in b.levels}
    both = [(each, at_b[each.level]) for each in a.levels if each.level in at_b]
    if not both:
        raise NotAlike(f"A has {_levels(a)} and B has {_levels(b)}: no level is in both")
    rows = [row for pair in both for row in _rows(*pair)]
    return Comparison(rows=tuple(rows), warnings=tuple(_warnings(a, b, both)))


def _rows(a: Measured, b: Measured) -> Iterator[Row]:
    for measure in MEASURES:
        of_a, of_b = a.over(measure.read), b.over(measure.read)
        if of_a is None or of_b is None or min(of_a.low, of_b.low) <= 0:
            continue
        yield Row(
            level=a.level,
            name=measure.name,
            a=of_a,
            b=of_b,
            ratio=of_b.median / of_a.median,
            low=of_b.low / of_a.high,
            high=of_b.high / of_a.low,
            faster=_faster(a, b, of_a, of_b, more_is_better=measure.more_is_better),
            shown=(measure.show(of_a.median), measure.show(of_b.median)),
        )


def _faster(a: Measured, b: Measured, of_a: Range, of_b: Range, *, more_is_better: bool) -> Verdict:
    """One repeat shows nothing of its spread."""
    if min(len(a.repeats), len(b.repeats)) < 2:
        return "cannot be told"
    if of_a.low > of_b.high:
        return "A" if more_is_better else "B"
    if of_b.low > of_a.high:
        return "B" if more_is_better else "A"
    return "cannot be told"


def _warnings(a: Record, b: Record, both: list[tuple[Measured, Measured]]) -> Iterator[str]:
    for what, of_a, of_b in (
        ("machine", a.machine, b.machine),
        ("model", a.model, b.model),
        ("API", a.api, b.api),
        ("place of the server", _place(a), _place(b)),
        ("SLO", str(a.plan.slo) or "none", str(b.plan.slo) or "none"),
    ):
        if of_a != of_b:
            yield f"Another {what}: A {of_a}, B {of_b}."
    for name in sorted(a.versions.keys() | b.versions.keys()):
        of_a, of_b = a.versions.get(name, "none"), b.versions.get(name, "none")
        if of_a != of_b:
            yield f"Another version of {name}: A {of_a}, B {of_b}."
    for name, record in (("A", a), ("B", b)):
        if record.interrupted:
            yield f"{name} was stopped before it had measured everything."
    for of_a_level, of_b_level in both:
        for name, level in (("A", of_a_level), ("B", of_b_level)):
            if level.failed:
                yield f"{name}, {level.level}: {level.failed} of {level.requests} requests failed."
        if min(len(of_a_level.repeats), len(of_b_level.repeats)) < 2:
            yield f"{of_a_level.level}: one repeat does not show how far figures differ by chance."


def table(a: Record, b: Record, found: Comparison) -> str:
    """For a terminal."""
    rows = [["", "", "A", "B", "B / A", "by repeats", "better"]]
    before: Level | None = None
    for row in found.rows:
        rows.append(
            [
                str(row.level) if row.level != before else "",
                row.name,
                *row.shown,
                f"{row.ratio:.2f}",
                f"{row.low:.2f} to {row.high:.2f}",
                row.faster,
            ]
        )
        before = row.level
    parts = [f"A: {_indented(heading(a))}", f"B: {_indented(heading(b))}", grid(rows)]
    return "\n\n".join([*parts, *(["\n".join(found.warnings)] if found.warnings else [])])


def value(a: Record, b: Record, found: Comparison) -> dict[str, Any]:
    """For the last line."""
    rows = [asdict(row) | {"level": str(row.level)} for row in found.rows]
    for row in rows:
        del row["shown"]
    return {
        "bench": "compare",
        "a": {"date": a.date, "url": a.url, "model": a.model, "machine": a.machine},
        "b": {"date": b.date, "url": b.url, "model": b.model, "machine": b.machine},
        "workload": a.plan.workload,
        "rows": rows,
        "warnings": list(found.warnings),
    }


def _indented(text: str) -> str:
    return text.replace("\n", "\n   ")


def _place(record: Record) -> str:
    return "on this machine" if record.here else "elsewhere"


def _shape(record: Record) -> str:
    shape = record.plan.shape
    return f"{shape.input}+{shape.prefix} tokens in and {shape.output} out"


def _levels(record: Record) -> str:
    return ", ".join(str(each.level) for each in record.levels) or "none"
