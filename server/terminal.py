"""Shows on a terminal that something long is going on, and how long it has."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A line with a running clock while the block runs; nothing where no terminal is."""
    if not sys.stderr.isatty():
        yield
        return
    begun = time.monotonic()
    done = threading.Event()
    # A descriptor of its own: the engine's start sends the usual one elsewhere for a while.
    with os.fdopen(os.dup(2), "w") as terminal:

        def tick() -> None:
            while not done.wait(0.5):
                print(f"\r{what} … {time.monotonic() - begun:.0f} s ", end="", file=terminal)
                terminal.flush()

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield
        finally:
            done.set()
            ticking.join()
            print("\r\033[K", end="", file=terminal)
