"""What the turns come to: each server's figures, and ratios to the first. Pure.

A ratio is taken within a round, of turns that were near each other in time, and the median of the
rounds is shown with the lowest and the highest. Whoever measures on a machine that others use sees
it in the spread.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One server at one level, once."""

    name: str
    round: int
    concurrency: int
    requests: int
    failed: int
    tokens: int
    seconds: float
    ttft: float | None
    """Median of the seconds to the first token."""
    cpu_seconds: float | None
    """Of the process that answers HTTP; None where it is not ours to look at."""
    gpu_mib: int | None = None
    """Taken of the GPU's memory; engines take for their KV what is left."""

    @property
    def speed(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """CPU microseconds of that process for each token."""
        if self.cpu_seconds is None or not self.tokens:
            return None
        return 1e6 * self.cpu_seconds / self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Middle:
    """A median, and between what it lies."""

    median: float
    low: float
    high: float


Read = Callable[[Turn], float | None]


def middle(values: Sequence[float | None]) -> Middle | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Middle(median=statistics.median(known), low=min(known), high=max(known))


def ratio(turns: Sequence[Turn], one: str, other: str, level: int, read: Read) -> Middle | None:
    """`one` over `other`, round by round."""
    found: dict[tuple[str, int], float | None] = {
        (turn.name, turn.round): read(turn) for turn in turns if turn.concurrency == level
    }
    ratios: list[float | None] = []
    for (name, number), value in found.items():
        beside = found.get((other, number))
        if name == one and value is not None and beside:
            ratios.append(value / beside)
    return middle(ratios)


def order(names: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Who has a turn when: forth and back, so that a machine that grows warm favours none."""
    turns = []
    for number in range(rounds):
        there = list(names) if number % 2 == 0 else list(reversed(names))
        turns += [(number + 1, name) for name in there]
    return turns


def table(turns: Sequence[Turn]) -> str:
    """For people: of each level a line a server; ratios are the first server's over this one's."""
    names = list(dict.fromkeys(turn.name for turn in turns))
    lines = [
        f"{'streams':>7} {'server':<8} {'tok/s':>8} {'from':>8} {'to':>8} {'TTFT':>9} "
        f"{'CPU us/tok':>10} {'speed':>7} {'CPU':>7}"
    ]
    for level in sorted({turn.concurrency for turn in turns}):
        for name in names:
            own = [turn for turn in turns if (turn.name, turn.concurrency) == (name, level)]
            if not own:
                continue
            speed = middle([turn.speed for turn in own])
            ttft, cpu = middle([turn.ttft for turn in own]), middle([turn.cpu_us for turn in own])
            assert speed
            lines.append(
                f"{level:7} {name:<8} {speed.median:8.1f} {speed.low:8.1f} {speed.high:8.1f} "
                f"{_shown(ttft, 1000, ' ms'):>9} {_shown(cpu):>10} "
                f"{_times(ratio(turns, names[0], name, level, lambda turn: turn.speed)):>7} "
                f"{_times(ratio(turns, names[0], name, level, lambda turn: turn.cpu_us)):>7}"
            )
            if failed := sum(turn.failed for turn in own):
                lines.append(f"{'':7} {failed} of its requests failed")
    lines.append(
        f"speed, CPU: {names[0]}'s over this one's, the median of the rounds; from, to: its slowest"
        " and its fastest"
    )
    return "\n".join(lines)


def _shown(value: Middle | None, times: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{times * value.median:.0f}{unit}"


def _times(value: Middle | None) -> str:
    return "" if value is None else f"{value.median:.2f}x"
