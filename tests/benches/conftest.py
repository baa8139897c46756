"""Samples and records, made by hand: what the bench would have measured."""

from array import array
from collections.abc import Callable
from typing import Any

import pytest

from senryu.benches.client.sample import Failure, Sample, Usage
from senryu.benches.figures import QUANTILES, Slo, figures
from senryu.benches.plan import Level, Plan
from senryu.benches.record import Measured, Record
from senryu.benches.workloads.base import Shape


def _sample(
    *,
    due: float = 0.0,
    first: float | None = 0.5,
    gaps: tuple[float, ...] = (0.1, 0.1, 0.1),
    prompt: int = 100,
    output: int | None = None,
    failure: Failure | None = None,
    **told: Any,
) -> Sample:
    """It waits `first` seconds, has a piece after each gap, and as many tokens as pieces."""
    at = None if first is None else due + first
    last = None if at is None else at + sum(gaps)
    pieces = 0 if first is None else len(gaps) + 1
    given: dict[str, Any] = {
        "due": due,
        "sent": due,
        "ended": last if last is not None else due + 1.0,
        "first_token": at,
        "last_token": last,
        "gaps": array("d", gaps if first is not None else ()),
        "asked_tokens": 4,
        "usage": Usage(input=prompt, output=pieces if output is None else output),
        "stop_reason": "end_turn",
        "failure": failure,
    }
    return Sample(**given | told)


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """`sample(due=1.0, first=0.5, gaps=(0.1,), output=2)`."""
    return _sample


def _record(
    *,
    levels: int = 2,
    speeds: tuple[float, ...] = (10.0, 11.0, 12.0),
    failure: Failure | None = None,
    slo: Slo | None = None,
    **told: Any,
) -> Record:
    """Each repeat has four answers and as many output tokens a second as `speeds` says, at the
    first level; at the others twice, thrice as many. `failure`: of one more request each."""
    slo = slo or Slo()
    measured = []
    for place in range(levels):
        repeats = []
        for speed in speeds:
            seconds = 16 / (speed * (place + 1))
            samples = [_sample(first=seconds / 4, gaps=(seconds / 4,) * 3) for _ in range(4)]
            if failure is not None:
                samples.append(_sample(first=None, usage=None, failure=failure))
            repeats.append(figures(samples, seconds, slo))
        level = Level(kind="concurrency", value=float(8**place))
        waited = tuple(share / 10 for share in QUANTILES)
        measured.append(Measured(level=level, repeats=tuple(repeats), first_tokens=waited))
    given: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "senryu bench --seed 7",
        "machine": "A machine, 2 cores",
        "here": True,
        "versions": {"senryu": "0.1.0", "python": "3.11"},
        "url": "http://127.0.0.1:8765",
        "api": "messages",
        "model": "small",
        "plan": Plan(
            workload="chat",
            shape=Shape(input=100, output=4),
            levels=tuple(each.level for each in measured),
            slo=slo,
            seed=7,
        ),
        "levels": tuple(measured),
    }
    return Record(**given | told)


@pytest.fixture
def record() -> Callable[..., Record]:
    """`record(levels=2, speeds=(10.0, 11.0), failure=…, model="other")`."""
    return _record
