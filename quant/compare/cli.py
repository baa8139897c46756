"""`senryu compare`: a quantized folder beside its parent.

Comes in: words from the command line. Goes out: an exit status, a table on stdout, `report.html`
and `report.json` in the quantized folder or where `--out` says; progress on stderr. It refuses to
know how anything is measured; the doors to torch open when work begins.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Comparison

BROKEN = 3
"""The exit status of a folder that broke a bound."""


def main(argv: list[str]) -> int:
    """0 when done, 1 when the machine stood in the way, 2 when the words were wrong, 3 when the
    gate is closed."""
    try:
        parser = _parser()
        arguments = parser.parse_args(argv or ["--help"])
        if arguments.gate and arguments.quick:
            parser.error("--gate judges by the whole measure: leave --quick out.")
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    try:
        return _compared(arguments)
    except KeyboardInterrupt:
        print("Stopped; the folders are as they were. Run the command again.", file=sys.stderr)
        return 130
    except RuntimeError as problem:
        if type(problem).__name__ not in ("PreparationError", "QuantizeError"):
            raise
        print(problem, file=sys.stderr)
        return 1
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        print(
            f"The system stood in the way ({where}{problem.strerror or type(problem).__name__}): "
            "make room or name another folder with --out, and run the command again.",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="senryu compare",
        description="Measure what a quantized model lost, and how fast it is here.",
    )
    parser.add_argument(
        "parent",
        metavar="PARENT",
        help="the 16-bit folder, or `embedded`: that of the model in the package",
    )
    parser.add_argument(
        "candidate", type=Path, metavar="CANDIDATE", help="the folder that was made of it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes; the candidate's folder else"
    )
    parser.add_argument(
        "--gate",
        action="store_true",
        help="judge by the recipe's bounds, write the verdict into the candidate's manifest, and "
        "end with status 3 when one is broken",
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="TOML with [compare] and [bounds]"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="SRC",
        help="held-out conversations: a folder of `senryu distill` or a JSONL file; the packaged "
        "set else",
    )
    parser.add_argument("--quick", action="store_true", help="measure less of everything")
    parser.add_argument(
        "--no-speech", action="store_true", help="do not ask the served models anything"
    )
    parser.add_argument("--no-speed", action="store_true", help="do not time the served models")
    return parser


def _compared(arguments: argparse.Namespace) -> int:
    from senryu.quant.progress import Bar

    from .recipe import CompareRecipe, read_recipe

    recipe = read_recipe(arguments.recipe) if arguments.recipe else CompareRecipe()
    if arguments.quick:
        recipe = recipe.quick()
    recipe = dataclasses.replace(
        recipe,
        speech=recipe.speech and not arguments.no_speech,
        speed=recipe.speed and not arguments.no_speed,
    )
    _refuse_late_trouble(arguments)
    from .run import compare

    with Bar() as progress:
        found = compare(
            _parent(arguments.parent, progress),
            arguments.candidate,
            recipe,
            source=arguments.samples,
            gate=arguments.gate,
            progress=progress,
        )
    return tell(found, arguments.candidate, arguments.out or arguments.candidate)


def tell(found: Comparison, candidate: Path, out: Path) -> int:
    """Print the table, where it was judged mark the candidate, and write the report last: of all
    of them a full disk may cost it alone."""
    from .gate import mark
    from .report import table, write

    print(table(found), flush=True)
    if found.broken is not None:
        for each in found.broken:
            print(f"Not to be served: {each}.", file=sys.stderr)
        mark(candidate, found.broken)
    status = BROKEN if found.broken else 0
    try:
        print(write(found, out))
    except OSError as problem:
        print(
            f"The report cannot be written into {out} ({problem.strerror}); the figures above "
            "hold. Make room or name another folder with --out.",
            file=sys.stderr,
        )
        return status or 1
    return status


def _refuse_late_trouble(arguments: argparse.Namespace) -> None:
    """What would only be found after everything was measured. Raises QuantizeError, OSError."""
    import tempfile

    from senryu.quant.errors import QuantizeError
    from senryu.server.manifest import MANIFEST_NAME

    candidate: Path = arguments.candidate
    if not (candidate / "config.json").is_file():
        return  # no model at all: it is said where it is read
    if arguments.gate and not (candidate / MANIFEST_NAME).is_file():
        raise QuantizeError(
            f"{candidate} has no manifest that a verdict could stand in: take a folder that "
            "senryu quantize wrote, or leave --gate out."
        )
    out: Path = arguments.out or candidate
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _parent(word: str, progress: object) -> Path:
    if word != "embedded":
        return Path(word)
    from senryu.quant.embedded import prepare

    return prepare(scheme="bf16", progress=progress)  # type: ignore[arg-type]
