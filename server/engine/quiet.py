"""Sends what vLLM's processes print to a log file instead of the terminal.

They print hundreds of lines that mean nothing to a user and are all there is when something goes
wrong. Children inherit file descriptors, so descriptors are what is exchanged, for the time that
vLLM starts; afterwards this process has its own back and the children keep the file.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Within the block, and in children started there, stdout and stderr go to the end of `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    own = [os.dup(1), os.dup(2)]
    with log.open("a") as file:  # appending: several processes share it
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


def new_log(folder: Path) -> Path:
    """An empty log file for this process; those of processes that are gone are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("engine-*.log"):
        if not Path("/proc", old.stem.removeprefix("engine-")).exists():
            old.unlink(missing_ok=True)
    log = folder / f"engine-{os.getpid()}.log"
    log.write_text("")
    return log


def cause_in(log: Path) -> str | None:
    """The last error named in the log, past vLLM's own "see above"."""
    named = re.findall(r"\b(\w*(?:Error|Exception): .+)", log.read_text(errors="replace"))
    causes = [line.strip() for line in named if "See root cause" not in line]
    return causes[-1] if causes else None
