"""The contents of uploaded files on disk, each under the SHA-256 of its bytes.

Equal contents lie there once, whoever uploaded them: rows in the store say whose they are, and
nothing here knows of those. A content is whole or not there: it is written beside the others, is on
the disk, and only then gets its name. The calls wait for the disk and belong in threads.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from senryu.server.identifiers import new_id

_INCOMING = "incoming"
_LOCK = "lock"
_BUCKET = re.compile(r"[0-9a-f]{2}")
# Nobody's upload is silent for so long: one that is was cut off together with its server.
_ABANDONED_SECONDS = 3600.0


class Incoming:
    """A content on its way in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)

    def finish(self) -> str:
        """Its SHA-256, once all of it is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Nothing of it is left, unless it was placed."""
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()
        self.path.unlink(missing_ok=True)


class Contents:
    """The folder of all contents; several servers may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = asyncio.Lock()

    def prepare(self) -> None:
        """Make the folder, which others of this machine may not look into."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / _INCOMING).mkdir(exist_ok=True, mode=0o700)

    def incoming(self) -> Incoming:
        return Incoming(self.folder / _INCOMING / new_id("in"))

    def path(self, sha256: str) -> Path:
        return content_path(self.folder, sha256)

    def place(self, incoming: Incoming) -> str:
        """Give it its name, which is returned; another of the same bytes is replaced by it."""
        sha256 = incoming.finish()
        path = self.path(sha256)
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
            _to_disk(self.folder)
        incoming.path.replace(path)
        _to_disk(path.parent)
        return sha256

    def read(self, sha256: str) -> bytes:
        """Raises FileNotFoundError."""
        return self.path(sha256).read_bytes()

    def remove(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def buckets(self) -> Iterator[str]:
        """The parts that it is in; their names begin those of the contents in them."""
        for entry in sorted(self.folder.iterdir()):
            if _BUCKET.fullmatch(entry.name):
                yield entry.name

    def within(self, bucket: str) -> list[str]:
        """The names of all contents of a bucket."""
        return [bucket + entry.name for entry in (self.folder / bucket).iterdir()]

    def forget_abandoned(self) -> None:
        """Remove what uploads left that ended with their server."""
        for entry in (self.folder / _INCOMING).iterdir():
            with suppress(FileNotFoundError):  # it has just come to its end
                if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                    entry.unlink()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While a content gets its row, or goes because it has none, nobody else does either: not
        in this process and not in another that shares the folder."""
        async with self._turn:
            with (self.folder / _LOCK).open("w") as lock:
                await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
                yield


def content_path(folder: Path, sha256: str) -> Path:
    """Where a content lies in a folder of contents."""
    return folder / sha256[:2] / sha256[2:]


def _to_disk(folder: Path) -> None:
    """Its entries outlive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
