"""The quant room's front door: `senryu quantize` and `python -m senryu.quant`.

Comes in: words from the command line. Goes out: an exit status, results on stdout and progress on
stderr. It refuses to know how anything is done; the doors to torch open when work begins.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = (
    "Weights are rounded to nearest, in groups of 32; calibrated and trained schemes are not built "
    "yet."
)


def main(argv: list[str]) -> int:
    """0 when done, 1 when the machine stood in the way, 2 when the words were wrong."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv or ["--help"])
        if arguments.model != "embedded" and arguments.out is None:
            parser.error("give --out DIR, the folder to write")
        if arguments.model != "embedded" and arguments.scheme != "w4a16":
            parser.error("a folder can be made w4a16 only")
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    try:
        print(_made(arguments))
    except KeyboardInterrupt:
        print("Stopped; nothing half-made is left. Run the command again.", file=sys.stderr)
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
            "make room or name another folder, and run the command again.",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from .embedded import SCHEMES

    parser = argparse.ArgumentParser(
        prog="senryu quantize", description="Make 4-bit models.", epilog=EPILOG
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a model folder, or `embedded`: the model in the package"
    )
    parser.add_argument(
        "--scheme", choices=SCHEMES, default=SCHEMES[0], help="default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the result goes; `embedded` has its place"
    )
    return parser


def _made(arguments: argparse.Namespace) -> Path:
    from .progress import Bar

    with Bar() as progress:
        if arguments.model == "embedded":
            from .embedded import prepare

            return prepare(scheme=arguments.scheme, progress=progress)
        from .folder import quantize_folder

        return quantize_folder(Path(arguments.model), arguments.out, progress=progress)
