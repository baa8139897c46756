"""What was measured, for a terminal.

Comes in: a `Record`. Goes out: text. Pure. Of several repeats the median is shown; what nobody told
is a dash, never 0.
"""

from collections.abc import Callable, Iterator, Sequence

from .figures import Failed, Read, time_of
from .record import Measured, Range, Record

DASH = "–"  # noqa: RUF001 - nothing was told, which is not minus
LEGEND = (
    "TTFT: until the first token; ITL: between two pieces; TPOT: a token after the first; E2E: the "
    "whole answer.\nEach is the median of the repeats."
)

TIMES: tuple[tuple[str, Read], ...] = (
    ("TTFT p50", time_of("ttft", "p50")),
    ("TTFT p90", time_of("ttft", "p90")),
    ("TTFT p99", time_of("ttft", "p99")),
    ("ITL p50", time_of("itl", "p50")),
    ("ITL p99", time_of("itl", "p99")),
    ("TPOT p50", time_of("tpot", "p50")),
    ("E2E p50", time_of("e2e", "p50")),
    ("E2E p99", time_of("e2e", "p99")),
)


def table(record: Record) -> str:
    """Where and what, a line for each level, and what has to be known of it."""
    parts = [heading(record)]
    if record.levels:
        parts += [grid(list(_speeds(record))), grid(list(_times(record))), LEGEND]
    parts.append("\n".join(_remarks(record)))
    return "\n\n".join(part for part in parts if part)


def heading(record: Record) -> str:
    """Three lines: what is asked, who is asked, on what."""
    where = "" if record.here else " (the client's; the server is elsewhere)"
    return "\n".join(
        [
            described(record),
            f"{record.api} at {record.url}, model {record.model}",
            f"{record.machine}{where}; {versions(record)}",
        ]
    )


def described(record: Record) -> str:
    """What was sent, in one line."""
    plan = record.plan
    about = "up to about " if plan.workload == "agentic" else ""
    sizes = [f"{about}{plan.shape.input} tokens in"] if plan.shape.input else []
    if plan.shape.prefix:
        sizes.append(f"behind {plan.shape.prefix} shared ones")
    sizes.append(f"at most {plan.shape.output} out")
    repeats = {1: "once", 2: "twice"}.get(plan.repeats, f"{plan.repeats} times")
    return f"{plan.workload}: {', '.join(sizes)}, each level {repeats}, seed {plan.seed}"


def versions(record: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.versions.items())


def _speeds(record: Record) -> Iterator[list[str]]:
    more = list(_further(record))
    names = ("requests", "output tok/s", "min to max", "total tok/s", "requests/s")
    yield ["", *names, *(name for name, _ in more)]
    for level in record.levels:
        output = level.over(lambda of: of.output_tokens_per_second)
        yield [
            str(level.level),
            f"{level.requests:,}",
            rate(output),
            bounds(output, rate_of),
            rate(level.over(lambda of: of.total_tokens_per_second)),
            rate(level.over(lambda of: of.requests_per_second)),
            *(show(level) for _, show in more),
        ]


def _times(record: Record) -> Iterator[list[str]]:
    yield ["", *(name for name, _ in TIMES)]
    for level in record.levels:
        yield [str(level.level), *times(level)]


def times(level: Measured) -> Iterator[str]:
    """All times that are shown, in their order."""
    for _, read in TIMES:
        yield seconds(level.over(read))


def _further(record: Record) -> Iterator[tuple[str, Callable[[Measured], str]]]:
    """Columns that not every record has."""
    levels = record.levels
    if str(record.plan.slo):
        yield "goodput/s", lambda level: rate(level.over(lambda of: of.goodput))
        yield "met", lambda level: percent(level.over(lambda of: of.met_share))
    if any_cached(record):
        yield "cached", lambda level: percent(cached(level))
    if record.roofline:
        yield "roofline", lambda level: percent(of_roofline(record, level))
    if any(level.failed for level in levels):
        yield "failed", lambda level: f"{level.failed:,}"


def cached(level: Measured) -> Range | None:
    return level.over(lambda of: of.cached)


def any_cached(record: Record) -> bool:
    """Whether anything was found in a cache, as far as the server says."""
    return any(found and found.high > 0 for found in map(cached, record.levels))


def of_roofline(record: Record, level: Measured) -> Range | None:
    """Output tokens a second over what the machine allows."""
    ceiling = record.ceiling(level.level)
    if ceiling is None:
        return None
    return level.over(lambda of: of.output_tokens_per_second / ceiling)


def _remarks(record: Record) -> Iterator[str]:
    for level in record.levels:
        for line in failures(level):
            yield f"{level.level}: {line}"
    yield f"usage: {usage(record)}"
    if str(record.plan.slo):
        yield f"SLO: {record.plan.slo} (seconds)"
    if short := short_answers(record):
        yield short
    yield from record.notes


def usage(record: Record) -> str:
    """Whether it is true, and by what it was judged."""
    checks = [f"{check.name}: {check.met} of {check.of}" for check in record.truth.checks]
    told = f" ({'; '.join(checks)})" if checks else ""
    return f"{record.truth}{told}"


def failures(level: Measured) -> Iterator[str]:
    """A line for each way in which requests of a level failed."""
    found: dict[tuple[str, int | None], list[Failed]] = {}
    for failed in (failed for each in level.repeats for failed in each.failures):
        found.setdefault((failed.kind, failed.status), []).append(failed)
    for (kind, status), all_of in found.items():
        count = sum(each.count for each in all_of)
        told = f" {status}" if status is not None else ""
        waits = [wait for each in all_of for wait in each.retry_after or ()]
        again = f"; asked to wait {_from_to(waits)}" if waits else ""
        yield f"{count} of {level.requests} {kind}{told}, such as: {all_of[0].example}{again}"


def short_answers(record: Record) -> str:
    """A word where answers ended long before they had to: speed then is that of short ones."""
    all_of = [each for level in record.levels for each in level.repeats]
    good, output = sum(each.good for each in all_of), sum(each.output_tokens for each in all_of)
    most = record.plan.shape.output
    if not good or output / good > 0.9 * most:
        return ""
    return f"Answers have {output / good:.1f} tokens on average, and might have had {most}."


def grid(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def rate(found: Range | None) -> str:
    return DASH if found is None else rate_of(found.median)


def seconds(found: Range | None) -> str:
    return DASH if found is None else seconds_of(found.median)


def percent(found: Range | None) -> str:
    return DASH if found is None else f"{found.median:.0%}"


def bounds(found: Range | None, show: Callable[[float], str]) -> str:
    """The lowest and the highest of the repeats."""
    return DASH if found is None else f"{show(found.low)} to {show(found.high)}"


def rate_of(value: float) -> str:
    """Three digits: more is noise."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def seconds_of(value: float) -> str:
    """Three digits, in the unit that suits."""
    if value < 1:
        return f"{rate_of(value * 1000)} ms"
    return f"{rate_of(value)} s"


def _from_to(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
