"""The distill room's front door: `senryu distill` and `python -m senryu.distill`.

Comes in: words from the command line. Goes out: an exit status, the result as one JSON object on
stdout's last line, progress on stderr. It refuses to know how anything is done; the doors to torch
open when work begins.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from senryu.quant.progress import Bar

from .errors import DistillError
from .recipe import RecipeError
from .run import STAGES, run

EPILOG = """\
A recipe is a TOML file; examples/recipes/ has some to start from and docs/recipes.md lists every
key. What is done already is never done again: after an interruption, run the same command.
"""


def main(argv: list[str]) -> int:
    """0 when done, 1 when something stood in the way, 2 when the words were wrong."""
    try:
        arguments = _parser().parse_args(argv or ["--help"])
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    try:
        with Bar() as progress:
            result = run(
                arguments.recipe,
                arguments.out,
                only=arguments.only,
                beside=tuple(arguments.beside),
                progress=progress,
            )
    except DistillError as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, RecipeError) else 1
    except ModuleNotFoundError as problem:
        print(
            f"The package {problem.name} is needed to distil: run `make setup`, or install senryu "
            "with its extra `cpu` or `gpu`.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("Stopped; what was done is kept. Run the same command to go on.", file=sys.stderr)
        return 130
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="senryu distill",
        description="Train a small student from a teacher's outputs: ask, train, measure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to make")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where everything goes"
    )
    parser.add_argument(
        "--only", choices=STAGES, help="this stage alone, on what lies in DIR already"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another run, whose samples are used where the recipe asks for the same, and whose "
        "figures the report shows beside these; may be repeated",
    )
    return parser
