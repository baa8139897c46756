"""Keeps in bounds what vLLM's own file tier writes: it removes nothing itself.

It has a folder for each model and kind of machine, and in it one for nearly every block; those of
models that are served no longer are tended as well. vLLM takes a file that has vanished for one
that was never there.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from senryu.server.engine.vllm_arguments import GPU_FOLDERS, Tended

_DAY = 86_400.0
_SECONDS = 60.0  # between two looks; less than a disk takes to write many GiB
_QUIET_SECONDS = 600.0  # an empty folder that is younger may be about to get a file


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
    """Remove what is older than a day, the oldest until the others fit, and folders that are empty;
    the bytes left."""
    now = time.time() if now is None else now
    files = sorted(_blocks(Path(tended.folder), now), reverse=True)
    total = sum(size for _, size, _ in files)
    while files and (total > tended.bytes or files[-1][0] < now - _DAY):
        _, size, path = files.pop()
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
    return total


def _blocks(folder: Path, now: float) -> Iterator[tuple[float, int, str]]:
    """When each was written, how large it is, and where; half written ones too. Folders in which
    there is nothing go on the way."""
    for tier in folder.glob(f"{GPU_FOLDERS}*"):
        for path, folders, names in os.walk(tier, topdown=False):
            with contextlib.suppress(OSError):
                if not names and not folders and os.stat(path).st_mtime < now - _QUIET_SECONDS:
                    os.rmdir(path)
            for name in names:
                if name.endswith((".bin", ".tmp")):
                    with contextlib.suppress(OSError):
                        found = os.stat(os.path.join(path, name), follow_symlinks=False)
                        yield found.st_mtime, found.st_size, os.path.join(path, name)
