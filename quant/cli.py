"""The quant room's front door: `senryu quantize` and `python -m senryu.quant`.

Comes in: words from the command line. Goes out: an exit status, results on stdout and progress on
stderr. It refuses to know how anything is done; the doors to torch open when work begins.
"""

from __future__ import annotations

import argparse
import sys

NOT_BUILT = (
    "senryu quantize is not built yet: it will turn a model folder or hub id into 4-bit weights "
    "and show what was lost; until then `senryu quantize embedded` prepares the embedded model."
)


def main(argv: list[str]) -> int:
    """0 when done, 1 when the machine stood in the way, 2 when the words were wrong."""
    wants_help = not argv or argv[0] in ("-h", "--help")
    if not wants_help and argv[0] != "embedded":
        print(NOT_BUILT, file=sys.stderr)
        return 2
    try:
        arguments = _parser().parse_args(argv or ["--help"])
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    return _embedded(arguments.scheme)


def _parser() -> argparse.ArgumentParser:
    from .embedded import SCHEMES

    parser = argparse.ArgumentParser(
        prog="senryu quantize", description="Make 4-bit models.", epilog=NOT_BUILT
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    embedded = commands.add_parser(
        "embedded", help="prepare the embedded model and print its folder"
    )
    embedded.add_argument(
        "--scheme", choices=SCHEMES, default=SCHEMES[0], help="default: %(default)s"
    )
    return parser


def _embedded(scheme: str) -> int:
    from .embedded import PreparationError, prepare
    from .progress import Bar

    try:
        with Bar() as progress:
            folder = prepare(scheme=scheme, progress=progress)
    except PreparationError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; nothing half-made is left. Run the command again.", file=sys.stderr)
        return 130
    print(folder)
    return 0
