"""Makes a model folder exactly once, however many processes want it and whichever of them dies.

Comes in: the folder's final name and a function that fills a folder. Goes out: the finished
folder. The work happens in a folder beside it, under a lock that the kernel frees when its holder
dies, and one rename finishes it; so the final name is either complete or not there. It refuses to
know what is being made.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from senryu.server.manifest import DamagedModelError, Manifest

from .progress import Progress

Fill = Callable[[Path], None]
"""Fills an empty folder with a model and its manifest."""


def damage(folder: Path) -> str | None:
    """Why the folder cannot be used, as a sentence; None when it can. Takes a millisecond."""
    try:
        manifest = Manifest.read(folder)
        if manifest is None:
            return f"The model folder {folder} is not complete."
        manifest.verify(folder, hashes=False)
    except DamagedModelError as found:
        return f"{found.finding}."  # its advice is for people; here it is followed at once
    return None


def make_once(final: Path, fill: Fill, progress: Progress, *, again: bool = False) -> Path:
    """`final`, made by `fill` unless it is there and whole; a damaged one is made again. With
    `again` a whole one is replaced too."""
    if not again and damage(final) is None:
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _alone(final, progress):
        found = damage(final)  # once more: another process may have made it while we waited
        if found is None and not again:
            return final
        if found is not None and final.exists():
            progress.say(f"{found} Preparing it again.")
        _make_alone(final, fill)
    return final


def _make_alone(final: Path, fill: Fill) -> None:
    # Whoever made these is gone, else we would not hold the lock. The whole name is compared:
    # `.a.b.1.partial` belongs to the folder `a.b`.
    half_made = re.compile(rf"\.{re.escape(final.name)}\.\d+(\.[a-z]+)?\.partial")
    for stale in final.parent.iterdir():
        if half_made.fullmatch(stale.name):
            shutil.rmtree(stale)
    partial = final.parent / f".{final.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        fill(partial)
        _put_in_place(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _put_in_place(partial: Path, final: Path) -> None:
    """One rename, after everything reached the disk; a damaged folder in the way moves aside."""
    readers = partial.stat().st_mode & 0o666
    for file in partial.iterdir():
        # safetensors writes files that only their owner may read, whatever the umask says;
        # a cache may be shared.
        file.chmod(readers)
        _flush(file)
    aside = final.parent / f".{final.name}.{os.getpid()}.old.partial"
    if final.exists():
        final.rename(aside)  # a running server keeps the files that it has open
    try:
        partial.rename(final)
    except BaseException:
        if aside.exists():
            aside.rename(final)
        raise
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(final: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock; say so when another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(final.parent / f".{final.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"Another process is preparing {final.name}; waiting for it to finish.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
