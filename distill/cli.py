"""The distill room's front door: `senryu distill` and `python -m senryu.distill`.

Comes in: words from the command line. Goes out: an exit status. Today it only says what will
come.
"""

from __future__ import annotations

import sys

NOT_BUILT = (
    "senryu distill is not built yet: it will collect a teacher's answers, train a small student "
    "on them and say how good it became."
)


def main(argv: list[str]) -> int:
    """2, with one sentence; 0 when only help was asked for."""
    if argv[:1] in (["-h"], ["--help"]):
        print(NOT_BUILT)
        return 0
    print(NOT_BUILT, file=sys.stderr)
    return 2
