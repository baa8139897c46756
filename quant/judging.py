"""Measures a folder that was just quantized, as `senryu compare` would.

Comes in: both folders and what was asked for. Goes out: a report in the folder, a table on stdout,
and an exit status. It refuses to know how anything is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .compare.cli import tell
from .compare.recipe import CompareRecipe, read_recipe
from .compare.run import compare
from .progress import Progress


def judge(parent: Path, made: Path, arguments: argparse.Namespace, progress: Progress) -> int:
    """0, or 3 when the gate is asked for and stays shut. Raises QuantizeError."""
    recipe = read_recipe(arguments.recipe) if arguments.recipe else CompareRecipe()
    source = None if arguments.calibration is None else Path(arguments.calibration)
    found = compare(
        parent,
        made,
        recipe,
        source=source,
        gate=arguments.gate,
        progress=progress,
    )
    return tell(found, made, made)
