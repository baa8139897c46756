"""Measures a folder that was just quantized, as `senryu compare` would.

Comes in: both folders and what was asked for. Goes out: a report in the folder, a table on stdout,
and an exit status. It refuses to know how anything is measured.
"""

from __future__ import annotations

from pathlib import Path

from .compare.cli import tell
from .compare.recipe import CompareRecipe
from .compare.run import compare
from .progress import Progress
from .recipe import QuantizeRecipe


def judge(
    parent: Path,
    made: Path,
    recipe: QuantizeRecipe,
    judged: CompareRecipe,
    gate: bool,
    progress: Progress,
) -> int:
    """0, or 3 when the gate is asked for and stays shut. Raises QuantizeError."""
    told = recipe.calibration.source
    source = None if told is None else Path(told).expanduser()
    found = compare(parent, made, judged, source=source, gate=gate, progress=progress)
    return tell(found, made, made)
