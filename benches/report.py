"""What was measured, as one page for people; and all files of a run in their folder.

Comes in: a `Record`. Goes out: the text of `report.html`, which needs no network; and the folder
with `record.json`, `samples.jsonl` and that page. It measures nothing.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from senryu.distill.curves import Line, draw
from senryu.distill.page import (
    Card,
    Cards,
    Drawing,
    Part,
    Section,
    Table,
    Text,
    Verbatim,
    page,
)

from .figures import QUANTILES, Figures, Read, Time, Which, time_of
from .record import Measured, Record
from .table import (
    DASH,
    TIMES,
    any_cached,
    bounds,
    cached,
    described,
    failures,
    of_roofline,
    percent,
    rate,
    rate_of,
    seconds,
    short_answers,
    times,
    usage,
    versions,
)

RECORD = "record.json"
SAMPLES = "samples.jsonl"
PAGE = "report.html"
_MOST_LINES = 5
"""More curves than these nobody tells apart."""
_ABOVE = "Medians of the repeats; what the words mean, and whether to believe them, stands below."
_WORDS = (
    (
        "Output tokens/s",
        "output tokens of all good answers over the time from when the first request was due to "
        "when the last one ended; total: prompt tokens too, found in a cache or not",
    ),
    (
        "TTFT",
        "from when a request was due to the first piece of its answer that holds something; at a "
        "rate it is due by a schedule made before, whether the server keeps up or not",
    ),
    (
        "ITL",
        "gaps between such pieces, of all answers together; pieces that one read brought have 0",
    ),
    ("TPOT", "time from an answer's first piece to its last over its tokens less one"),
    ("E2E", "from when a request was due to the end of its answer"),
    ("Goodput", "requests a second that ended well and kept every bound of the SLO"),
    (
        "Percentiles",
        "linear between the two nearest values; of few requests p99 is near the longest",
    ),
    (
        "Repeats",
        "each figure is the median over the repeats, in brackets the lowest and the highest; "
        "warm-up and repeats ask different texts, so that none reads the other's cache",
    ),
    (
        "Usage is true",
        "where all that can be checked holds: prompt tokens are those of count_tokens, an answer "
        "that max_tokens ended has so many, no answer has fewer tokens than pieces, and the sums "
        "are what the engine's own counters grew by",
    ),
)


def write(
    record: Record, samples: Iterable[Mapping[str, Any]], folder: Path
) -> tuple[Path, str | None]:
    """Put the files into the folder, each whole or not at all. The page's path, and what stood in
    the way of its drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / RECORD, record.text())
    _put(folder / SAMPLES, "".join(json.dumps(sample) + "\n" for sample in samples))
    text, missing = render(record)
    _put(folder / PAGE, text)
    return folder / PAGE, missing


def _put(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def render(record: Record) -> tuple[str, str | None]:
    """The page; and a sentence where it has no drawings."""
    missing: str | None = None
    curves: tuple[Part, ...] = ()
    try:
        curves = tuple(_curves(record))
    except ImportError:
        missing = "The page has no curves: they are drawn with matplotlib, which is not installed."
    sections = [
        Section(
            "What was measured", (_cards(record), Text(_ABOVE), *_notes(record), *_levels(record))
        ),
        *([Section("Curves", curves)] if curves else []),
        *_bad(record),
        Section("Whether usage is true", tuple(_usage(record))),
        Section("The words", (Table(("", ""), _WORDS, numbers=False),)),
        Section("How it was measured", (_made(record), *_drawn_from(record))),
    ]
    subtitle = f"{described(record)}; {record.date[:10]}, {record.machine}"
    foot = f"senryu {record.versions.get('senryu', '')}".strip()
    return page(f"{record.model}: {record.plan.workload}", subtitle, sections, foot=foot), missing


def _cards(record: Record) -> Cards:
    if not record.levels:
        return Cards((Card("Measured", "nothing"),))
    fastest = max(record.levels, key=lambda level: _median(level, _output))
    first = record.levels[0]
    cards = [
        Card(
            "Output, at its most",
            f"{rate(fastest.over(_output))} tok/s",
            f"{fastest.level}; {bounds(fastest.over(_output), rate_of)}",
        ),
        Card(f"Output at {first.level}", f"{rate(first.over(_output))} tok/s", _each(first)),
        Card(
            f"First token at {first.level}",
            seconds(first.over(time_of("ttft", "p50"))),
            f"p99: {seconds(first.over(time_of('ttft', 'p99')))}",
        ),
    ]
    share = of_roofline(record, fastest)
    if share is not None:
        cards.append(Card("Of what the machine allows", percent(share), str(fastest.level)))
    if str(record.plan.slo):
        best = max(record.levels, key=lambda level: _median(level, lambda of: of.goodput))
        value = f"{rate(best.over(lambda of: of.goodput))} requests/s"
        cards.append(Card("Goodput, at its most", value, f"{record.plan.slo}; {best.level}"))
    asked, failed = (sum(map(read, record.levels)) for read in (_requests, _failed))
    cards.append(Card("Failed", f"{failed:,} of {asked:,}", "requests"))
    cards.append(Card("Usage is true", record.truth.verdict.replace("not told", DASH)))
    return Cards(tuple(cards))


def _output(of: Figures) -> float:
    return of.output_tokens_per_second


def _requests(level: Measured) -> int:
    return level.requests


def _failed(level: Measured) -> int:
    return level.failed


def _median(level: Measured, read: Read) -> float:
    found = level.over(read)
    return -1.0 if found is None else found.median


def _each(level: Measured) -> str:
    return f"a token each {seconds(level.over(time_of('tpot', 'p50')))}"


def _notes(record: Record) -> tuple[Part, ...]:
    stopped = ["It was stopped before it had measured everything."] if record.interrupted else []
    short = [short_answers(record)] if short_answers(record) else []
    return tuple(Text(note) for note in (*stopped, *short, *record.notes))


def _levels(record: Record) -> tuple[Table, Table]:
    """How much was done, and how long it took."""
    columns = ["", "requests", "failed", "output tok/s", "total tok/s", "requests/s"]
    columns += ["goodput/s", "met"] if str(record.plan.slo) else []
    columns += ["from cache"] if any_cached(record) else []
    columns += ["of roofline"] if record.roofline else []
    waited = [(str(level.level), *times(level)) for level in record.levels]
    return (
        Table(tuple(columns), tuple(_row(record, level) for level in record.levels)),
        Table(("", *(name for name, _ in TIMES)), tuple(waited)),
    )


def _row(record: Record, level: Measured) -> tuple[str, ...]:
    cells = [
        str(level.level),
        f"{level.requests:,}",
        f"{level.failed:,}",
        f"{rate(level.over(_output))} ({bounds(level.over(_output), rate_of)})",
        rate(level.over(lambda of: of.total_tokens_per_second)),
        rate(level.over(lambda of: of.requests_per_second)),
    ]
    if str(record.plan.slo):
        cells.append(rate(level.over(lambda of: of.goodput)))
        cells.append(percent(level.over(lambda of: of.met_share)))
    if any_cached(record):
        cells.append(percent(cached(level)))
    if record.roofline:
        cells.append(percent(of_roofline(record, level)))
    return tuple(cells)


def _curves(record: Record) -> Iterable[Part]:
    """Those for which there is something to draw."""
    scale, unit = _unit(record)
    kind = record.levels[0].level.kind if record.levels else ""
    allowed = ", and what the machine allows" if record.roofline else ""
    for svg, caption in (
        (
            draw(
                _against_throughput(record), x="output tokens/s", y="seconds", log=True, dots=True
            ),
            "Latency over throughput, a dot for each level: further to the right is more work "
            "done, further up is longer waiting, on a logarithmic scale.",
        ),
        (
            draw(
                _distributions(record, scale), x=f"{unit} to the first token", y="share of requests"
            ),
            f"How many requests had their first token after so many {unit}, all repeats together.",
        ),
        (
            draw(_speeds(record), x=kind, y="output tokens/s", log=bool(allowed), dots=True),
            f"Output by level, a dot for each, with the slowest and the fastest repeat{allowed}.",
        ),
    ):
        if svg is not None:
            yield Drawing(svg, caption)


def _unit(record: Record) -> tuple[float, str]:
    """What shows the times to the first token best: how many of it a second has, and its name."""
    longest = max(
        (level.first_tokens[-1] for level in record.levels if level.first_tokens), default=1
    )
    return (1.0, "seconds") if longest >= 1 else (1000.0, "milliseconds")


def _against_throughput(record: Record) -> list[Line]:
    shown: tuple[tuple[str, Time, Which], ...] = (
        ("TTFT", "ttft", "p50"),
        ("TTFT", "ttft", "p99"),
        ("TPOT", "tpot", "p50"),
        ("TPOT", "tpot", "p99"),
    )
    lines = []
    for name, time, which in shown:
        points = [
            (speed.median, waited.median)
            for level in record.levels
            if (speed := level.over(_output)) and (waited := level.over(time_of(time, which)))
        ]
        lines.append(Line(f"{name} {which}", tuple(points)))
    return [line for line in lines if line.points]


def _distributions(record: Record, scale: float) -> list[Line]:
    return [
        Line(
            str(level.level),
            tuple(
                (scale * time, share)
                for time, share in zip(level.first_tokens, QUANTILES, strict=True)
            ),
        )
        for level in record.levels
        if level.first_tokens
    ][:_MOST_LINES]


def _speeds(record: Record) -> list[Line]:
    if len(record.levels) < 2:
        return []
    found = [(level.level.value, level.over(_output)) for level in record.levels]
    known = [(value, told) for value, told in found if told is not None]
    lines = [Line("median", tuple((value, told.median) for value, told in known))]
    if any(told.low < told.high for _, told in known):
        lines.append(Line("slowest", tuple((value, told.low) for value, told in known)))
        lines.append(Line("fastest", tuple((value, told.high) for value, told in known)))
    if record.roofline:
        allowed = [(each.level.value, each.tokens_per_second) for each in record.roofline]
        lines.append(Line("what the machine allows", tuple(allowed)))
    return lines


def _bad(record: Record) -> list[Section]:
    rows = [(str(level.level), line) for level in record.levels for line in failures(level)]
    if not rows:
        return []
    return [Section("What failed", (Table(("", "requests"), tuple(rows), numbers=False),))]


def _usage(record: Record) -> Iterable[Part]:
    yield Text(f"Usage is {usage(record).partition(' (')[0]}.")
    rows = [
        (check.name, f"{check.met:,} of {check.of:,}", check.example or "")
        for check in record.truth.checks
    ]
    if any(example for _, _, example in rows):
        yield Table(("", "held", "such as"), tuple(rows), numbers=False)
    elif rows:
        yield Table(("", "held"), tuple((name, held) for name, held, _ in rows), numbers=False)


def _made(record: Record) -> Part:
    plan = record.plan
    where = "client and server on one machine" if record.here else "the client's"
    asked = "16, or two for each at a time" if plan.requests is None else f"{plan.requests}"
    warm = "as many as are asked at a time" if plan.warm_up is None else f"{plan.warm_up}"
    rows = [
        ("command", record.command),
        ("server", f"{record.url}, {record.api}, model {record.model}"),
        ("machine", f"{record.machine} ({where})"),
        ("versions here", versions(record)),
        ("measured", record.date),
        ("requests of a level, once", asked),
        ("warm-up before a level", warm),
        ("repeats", str(plan.repeats)),
        ("SLO", str(plan.slo) or "none"),
        ("roofline", record.roofline_from or "not known"),
    ]
    return Table(("", ""), tuple(rows), numbers=False)


def _drawn_from(record: Record) -> tuple[Part, ...]:
    """The figures themselves, without the points of curves."""
    told = record.value(curves=False)
    return (Verbatim("All figures", json.dumps(told["levels"], indent=1)),)
