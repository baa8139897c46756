"""Says whether a quantized folder keeps the bounds that it is held to, and writes that down.

Comes in: a comparison and bounds. Goes out: a sentence for each bound that is broken; `mark` writes
the verdict into the folder's manifest. A bound whose figure was not measured is broken. It refuses
to measure anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.quant.errors import QuantizeError
from senryu.server.manifest import Manifest

from .recipe import Bounds
from .spoken import FREE, Mode, Speech

if TYPE_CHECKING:
    from .comparison import Comparison


def judge(result: Comparison, bounds: Bounds) -> tuple[str, ...]:
    """The bounds that are broken, each as the end of a sentence with its figure and the bound."""
    return tuple(_broken(result, bounds))


def mark(folder: Path, broken: Sequence[str]) -> None:
    """Write the verdict into the folder's manifest, whole or not at all. Raises QuantizeError."""
    try:
        manifest = Manifest.read(folder)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    if manifest is None:
        raise QuantizeError(
            f"{folder} has no manifest that a verdict could stand in: take a folder that senryu "
            "quantize wrote."
        )
    why = "; ".join(broken) or None
    try:
        dataclasses.replace(manifest, servable=not broken, refused_because=why).write(folder)
    except OSError as problem:
        raise QuantizeError(
            f"The verdict cannot be written into {folder} ({problem.strerror}): make room there "
            "and compare again."
        ) from problem


def _broken(result: Comparison, bounds: Bounds) -> Iterator[str]:
    row, told = result.measures.all, result.speech
    tools = told.tool_validity_drop if told else None
    turns = told.match_drop if told else None
    answers = told.structured_drop if told else None
    most: tuple[tuple[str, float | None, float | None, str, tuple[Mode, ...]], ...] = (
        ("the KL to the parent", bounds.kl, row.kl.value, " nats a token", ()),
        ("perplexity over the parent's", bounds.perplexity_ratio, row.perplexity_ratio, "", ()),
        ("the drop in valid tool calls", bounds.tool_validity_drop, tools, " points", FREE),
        (
            "the drop in turns that call the recorded tools",
            bounds.match_drop,
            turns,
            " points",
            ("forced",),
        ),
        (
            "the drop in JSON answers that fit their schema",
            bounds.structured_drop,
            answers,
            " points",
            ("json",),
        ),
        ("the folder's size over the parent's", bounds.size_ratio, result.size_ratio, "", ()),
    )
    match = told.match if told else None
    least: tuple[tuple[str, float | None, float | None, tuple[Mode, ...]], ...] = (
        ("the share of equal first choices", bounds.agreement, row.agreement.value, ()),
        ("the share of turns with the parent's calls", bounds.match, match, ("forced",)),
    )
    for name, bound, figure, unit, modes in most:
        if bound is not None:
            if figure is None or _lacks(told, modes):
                why = _lacks(told, modes)
                yield f"{name} was not measured{why}, and is to be at most {bound:g}{unit}"
            elif not figure <= bound:
                cases = _cases(told, modes)
                yield f"{name} is {figure:.3g}{unit}{cases}, above the bound of {bound:g}"
    for name, bound, figure, modes in least:
        if bound is not None:
            if figure is None or _lacks(told, modes):
                why = _lacks(told, modes)
                yield f"{name} was not measured{why}, and is to be at least {bound:g}"
            elif not figure >= bound:
                yield f"{name} is {figure:.3g}{_cases(told, modes)}, below the bound of {bound:g}"


def _lacks(told: Speech | None, modes: Sequence[Mode]) -> str:
    """What is missing of a figure on speech; empty where it is whole."""
    missing = sum(told.left_out.count(mode) for mode in modes) if told else 0
    return f" ({missing} questions could be asked of one model only)" if missing else ""


def _cases(told: Speech | None, modes: Sequence[Mode]) -> str:
    if not told or not modes:
        return ""
    if modes == FREE:
        return f" in {told.kept('parent', told.worse_calls).whole} cases"
    return f" in {sum(pair.mode in modes for pair in told.pairs)} cases"
