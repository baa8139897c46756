"""Tasks of lm-evaluation-harness, where it is installed and has its data at hand.

Comes in: the student's folder and names of tasks. Goes out: scores, and one sentence on what could
not be run. It never fails a run: what the harness needs is not ours to bring.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """`{"task, metric": value}`, and what to know about them."""

    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def run_harness(folder: Path, tasks: Sequence[str], *, limit: int | None = None) -> Scores:
    """The tasks one by one, so that one that cannot be run spoils no other. `limit` takes the first
    so many questions of each."""
    if not tasks:
        return Scores()
    try:
        harness = importlib.import_module("lm_eval")
        models = importlib.import_module("lm_eval.models.huggingface")
    except ImportError:
        return Scores(
            note="lm-evaluation-harness is not installed, so its tasks were not run: "
            "pip install lm-eval, and evaluate again."
        )
    values: dict[str, float] = {}
    troubles = []
    try:
        # Left to itself it insists on a GPU.
        torch = importlib.import_module("torch")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = models.HFLM(pretrained=str(folder), device=device)
    except Exception as trouble:
        return Scores(note=f"lm-evaluation-harness could not open the student: {_line(trouble)}.")
    for task in tasks:
        # Whatever it raises is about its data, its network or its own code.
        try:
            told = harness.simple_evaluate(model=model, tasks=[task], limit=limit)
            values |= _scores(told["results"])
        except Exception as trouble:
            troubles.append(f"{task} ({_line(trouble)})")
    note = f"Not run: {', '.join(troubles)}." if troubles else ""
    return Scores(values=values, note=note)


def _scores(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The harness names a metric `acc,none`: the second part is a filter, worth telling when there
    is one."""
    return {
        f"{task}, {metric.removesuffix(',none')}": float(value)
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if isinstance(value, int | float) and "stderr" not in metric and "," in metric
    }


def _line(trouble: Exception) -> str:
    told = str(trouble).strip().splitlines()
    return f"{type(trouble).__name__}: {told[0].rstrip('.')}" if told else type(trouble).__name__
