"""What is printed: a table for people, and the record for machines.

Comes in: figures of one or two servers. Goes out: text, and a value for JSON. What a server does
not tell is a dash, never 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .figures import Figures, Share, TurnFigures

DASH = "–"  # noqa: RUF001 - nothing was told, which is not minus


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The first turn of a session, before the server was stopped and after it was started again."""

    cold_s: float | None
    again_s: float | None
    shared: float | None
    """Of the prompt, found in a cache after the start."""

    @property
    def ratio(self) -> float | None:
        return self.again_s / self.cold_s if self.again_s and self.cold_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What came of one server."""

    name: str
    version: str
    model: str
    figures: Figures | None = None
    restart: Restart | None = None
    failure: str | None = None
    """Why there are no figures, or not of all turns."""


Row = tuple[str, Callable[[Figures], Any], Callable[[Any], str]]


def _count(value: int) -> str:
    return f"{value:,}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.1f} ms"


def _of(value: Share) -> str:
    return f"{value.met} of {value.of}"


_ROWS: tuple[Row, ...] = (
    ("requests", lambda of: of.requests, _count),
    ("tokens sent", lambda of: of.sent, _count),
    ("new tokens", lambda of: of.new, _count),
    ("computed tokens", lambda of: of.computed, _count),
    ("computed over new", lambda of: of.computed_over_new, _ratio),
    ("tokens read again", lambda of: of.read_again, _count),
    ("hit rate", lambda of: of.hit_rate, _percent),
    ("shared when only the billing line differs", lambda of: of.billing_shared, _percent),
    ("first token, short request before all turns", lambda of: of.first_request_s, _seconds),
    ("first token, cold (first turn)", lambda of: of.first_token_cold_s, _seconds),
    ("first token, warm (median)", lambda of: of.first_token_warm_s, _seconds),
    ("first token, warm (longest)", lambda of: of.first_token_warm_longest_s, _seconds),
    ("message_start (median)", lambda of: of.start_s, _seconds),
    ("message_start (longest)", lambda of: of.start_longest_s, _seconds),
    ("longest silence", lambda of: of.silence_s, _seconds),
    ("longest silence, pings not counted", lambda of: of.silence_without_pings_s, _seconds),
    ("tool calls answered", lambda of: of.calls, _count),
    ("... that cannot be parsed", lambda of: of.calls_unparsable, _count),
    ("... cut by max_tokens", lambda of: of.calls_cut, _count),
    ("usage: message_start == message_delta", lambda of: of.usage_same, _of),
    ("count_tokens == usage", lambda of: of.count_same, _of),
    ("usage == the engine's counters", lambda of: of.counters_same, _of),
)
# Where a ratio of two servers says something.
_COMPARED = {"computed tokens", "computed over new", "tokens read again"}
_TIMES = ("first token", "message_start", "longest silence")


def table(columns: Sequence[Column]) -> str:
    """The summary, with a ratio of the second to the first where there are two."""
    measured = [column for column in columns if column.figures is not None]
    lines = [_line("", [column.name for column in measured], "ratio" if len(measured) == 2 else "")]
    for label, read, show in _ROWS:
        values = [read(column.figures) for column in measured if column.figures is not None]
        shown = [DASH if value is None else show(value) for value in values]
        lines.append(_line(label, shown, _compared(label, values)))
    notes = [f"{each.name}: {each.failure}" for each in columns if each.failure]
    return "\n".join([*(lines if measured else []), *notes])


def _compared(label: str, values: Sequence[Any]) -> str:
    if len(values) != 2 or not (label in _COMPARED or label.startswith(_TIMES)):
        return ""
    first, second = values
    return f"{second / first:.2f}" if first and second is not None else DASH


def _line(label: str, values: Sequence[str], last: str) -> str:
    return f"{label:<44}" + "".join(f"{value:>16}" for value in values) + f"{last:>9}".rstrip()


def turn_table(columns: Sequence[Column]) -> str:
    """Turn by turn: of each server the prompt, new and computed tokens, and the waiting."""
    measured = [column for column in columns if column.figures is not None]
    heads = [f"{'prompt':>8}{'new':>8}{'computed':>9}{'first':>9}{'cold':>9}" for _ in measured]
    names = "".join(f"  {column.name:<41}" for column in measured)
    lines = [f"{'':16}{names}".rstrip(), f"{'turn':<16}" + "".join(heads)]
    rows = [column.figures.turns for column in measured if column.figures is not None]
    for place in range(max(map(len, rows), default=0)):
        cells = [_cells(turns[place]) if place < len(turns) else "" for turns in rows]
        turn = next(turns[place] for turns in rows if place < len(turns))
        lines.append(f"{turn.number:<5}{turn.kind:<11}" + "".join(f"{cell:<43}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def _cells(turn: TurnFigures) -> str:
    counts = [turn.prompt, turn.new, turn.computed]
    shown = [DASH if value is None else _count(value) for value in counts]
    times = [turn.first_token_s, turn.cold_s]
    waited = [DASH if value is None else _seconds(value) for value in times]
    prompt, new, computed = shown
    return f"{prompt:>8}{new:>8}{computed:>9}" + "".join(f"{value:>9}" for value in waited)


def restart_table(columns: Sequence[Column]) -> str:
    lines = [f"{'first turn':<16}{'cold':>10}{'again':>10}{'ratio':>8}{'from cache':>12}"]
    for column in columns:
        if column.restart is not None:
            of = column.restart
            times = [DASH if each is None else _seconds(each) for each in (of.cold_s, of.again_s)]
            ratio = DASH if of.ratio is None else f"{of.ratio:.2f}"
            shared = DASH if of.shared is None else _percent(of.shared)
            cells = f"{times[0]:>10}{times[1]:>10}{ratio:>8}{shared:>12}"
            lines.append(f"{column.name:<16}{cells}")
    notes = [f"{each.name}: {each.failure}" for each in columns if each.failure]
    return "\n".join([*lines, *notes])


def progress(name: str, turn: TurnFigures) -> str:
    """A line for whoever waits."""
    return f"{name:<10} {turn.number:>3} {turn.kind:<10}{_cells(turn)}"


def record(columns: Sequence[Column], **about: Any) -> dict[str, Any]:
    """The last line."""
    servers = []
    for column in columns:
        told = asdict(column)
        if column.restart is not None:
            told["restart"]["ratio"] = column.restart.ratio
        servers.append({key: value for key, value in told.items() if value is not None})
    return {"bench": "agentic", **about, "servers": servers}
