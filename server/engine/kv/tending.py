"""Keeps the folder in bounds that vLLM's own file tier writes to: it removes nothing itself.

vLLM takes a file that has vanished for one that was never there.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from senryu.server.engine.vllm_arguments import Tended

_DAY = 86_400.0
_SECONDS = 60.0  # between two looks; less than a disk takes to write many GiB


class Tender:
    """Looks at the folder now and then until it is closed."""

    def __init__(self, tended: Tended) -> None:
        self._tended = tended
        self._closed = threading.Event()
        with contextlib.suppress(OSError):  # vLLM will say so too
            Path(tended.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(tended.folder).chmod(0o700)
        threading.Thread(target=self._run, name="kept prompts", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while True:
            tend(self._tended)
            if self._closed.wait(_SECONDS):
                return


def tend(tended: Tended, *, now: float | None = None) -> int:
    """Remove what is older than a day, and the oldest until the others fit; the bytes left."""
    now = time.time() if now is None else now
    files = sorted(_blocks(Path(tended.folder)), reverse=True)
    total = sum(size for _, size, _ in files)
    while files and (total > tended.bytes or files[-1][0] < now - _DAY):
        _, size, path = files.pop()
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
    return total


def _blocks(folder: Path) -> Iterator[tuple[float, int, str]]:
    """When each was written, how large it is, and where; half written ones too."""
    for path, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".bin", ".tmp")):
                with contextlib.suppress(OSError):
                    found = os.stat(os.path.join(path, name), follow_symlinks=False)
                    yield found.st_mtime, found.st_size, os.path.join(path, name)
