"""Sends what vLLM's processes print to a log file instead of the terminal.

They print hundreds of lines that mean nothing to a user and are all there is when something goes
wrong. Children inherit file descriptors, so descriptors are what is exchanged, for the time that
vLLM starts; afterwards this process has its own back and the children keep the file.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Within the block, and in children started there, stdout and stderr are `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    own = [os.dup(1), os.dup(2)]
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(own, start=1):
            os.dup2(saved, number)
            os.close(saved)
