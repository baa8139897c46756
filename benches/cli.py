"""`senryu bench`: not built yet; what measures today is `python -m senryu.benches.micro`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Says so, and exits with 2."""
    print(
        "senryu bench is not built yet; it will measure tokens per second of any Messages API "
        "server. What the front end costs: python -m senryu.benches.micro",
        file=sys.stderr,
    )
    return 2
