"""A folder of KV blocks that outlive the engine's memory and its process.

One file a block. The folder itself is the whole state: a file's name is its key, its time of
modification is the time at which it expires, and its header tells whether it is whole. So any
number of processes may read and write it, and none has to remember anything.

A cache: nothing in here raises. A file that is damaged, expired or not ours is a miss and is
removed; a disk that is full or fails is a miss, and is told once. Knows no engine and no tensor.
"""

import contextlib
import errno
import logging
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

log = logging.getLogger("senryu.server")

LONGEST = 3_600.0
"""Seconds that a block is kept at most, from when it was last asked for."""
RESERVE = 2**30
"""Bytes of the disk that are left free for others."""

_SLACK = 60.0  # clocks are set; and an hour from then is past an hour from now
_MAGIC = b"senryuK1"
_HEADER = Struct("<8sQI4x")  # magic, bytes of the block, checksum of name and block
_NAME = re.compile(r"[0-9a-f]{16,128}")
_KEPT = re.compile(_NAME.pattern + r"\.kv")
_TORN = re.compile(r"\.[0-9a-f.]+\.part")
_TORN_SECONDS = 600.0  # nobody writes one block for that long
_ROOM = 16  # eviction makes room for a sixteenth of the bound at once: it has to list the folder


@dataclass(frozen=True, slots=True)
class Swept:
    """What a look through the folder has found, and left."""

    blocks: int
    bytes: int
    next_expiry: float | None
    """When the first of them expires; None when there is none."""


@dataclass(frozen=True, slots=True)
class _Entry:
    expires: float
    bytes: int
    path: str


class KeptBlocks:
    """The blocks of one namespace, below a folder that other namespaces share.

    Within a namespace equal names mean equal blocks: whoever names them sees to that. `limit` is
    how many bytes all namespaces together may take.
    """

    def __init__(
        self,
        folder: Path,
        namespace: str,
        limit: int,
        *,
        reserve: int = RESERVE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        assert _NAME.fullmatch(namespace), namespace
        self._folder = folder
        self._namespace = namespace
        self._limit = limit
        self._reserve = reserve
        self._clock = clock
        self._used: int | None = None  # by all namespaces, as far as we know
        self._told: set[int | None] = set()
        self._number = 0

    def read_into(self, name: str, block: bytearray | memoryview) -> bool:
        """Whether the block is there; then `block`, which must be as long as it is, holds it.
        Otherwise `block` may hold anything."""
        try:
            with self._opened() as folder:
                file = os.open(
                    _file(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder
                )
                try:
                    if self._is_whole(file, name, block):
                        return True
                finally:
                    os.close(file)
                os.unlink(_file(name), dir_fd=folder)
        except OSError as error:
            self._miss(name, error)
        return False

    def extend(self, name: str, size: int, expires: float) -> bool:
        """Whether a block of that size is there; it then lives until `expires` at least. That it
        is whole is found out when it is read."""
        try:
            with self._opened() as folder:
                found = os.stat(_file(name), dir_fd=folder, follow_symlinks=False)
                if not self._is_ours(found, size):
                    os.unlink(_file(name), dir_fd=folder)
                    return False
                until = min(expires, self._clock() + LONGEST)
                if found.st_mtime < until:
                    os.utime(_file(name), (until, until), dir_fd=folder, follow_symlinks=False)
                return True
        except OSError as error:
            self._miss(name, error)
        return False

    def write(self, name: str, block: bytes | bytearray | memoryview, expires: float) -> bool:
        """Keep a block until `expires`; whether it is kept."""
        size = len(block) + _HEADER.size
        try:
            with self._opened(make=True) as folder:
                if not self._has_room(folder, size):
                    return False
                self._put(folder, name, block, expires)
        except OSError as error:
            self._tell(error)
            return False
        self._used = (self._used or 0) + size
        return True

    def remove(self, name: str) -> None:
        """Forget a block."""
        with contextlib.suppress(OSError), self._opened() as folder:
            os.unlink(_file(name), dir_fd=folder)

    def sweep(self, room: int = 0) -> Swept:
        """Remove what has expired or is not ours, of every namespace; and, until `room` bytes fit
        in beside the others, what would expire next."""
        now = self._clock()
        living = []
        for entry in self._entries():
            if now < entry.expires <= now + LONGEST + _SLACK:
                living.append(entry)
            else:
                _unlink(entry.path)
        living.sort(key=lambda entry: entry.expires, reverse=True)
        total = sum(entry.bytes for entry in living)
        while living and total > self._limit - room:
            soonest = living.pop()
            _unlink(soonest.path)
            total -= soonest.bytes
        self._used = total
        return Swept(len(living), total, living[-1].expires if living else None)

    # ---- one file

    def _is_ours(self, found: os.stat_result, size: int) -> bool:
        now = self._clock()
        return (
            stat.S_ISREG(found.st_mode)
            and found.st_uid == os.geteuid()
            and found.st_size == size + _HEADER.size
            and now < found.st_mtime <= now + LONGEST + _SLACK
        )

    def _is_whole(self, file: int, name: str, block: bytearray | memoryview) -> bool:
        if not self._is_ours(os.fstat(file), len(block)):
            return False
        header = bytearray(_HEADER.size)
        if not _filled(file, header) or not _filled(file, block):
            return False
        magic, size, checksum = _HEADER.unpack(header)
        return (magic, size, checksum) == (_MAGIC, len(block), _checksum(name, block))

    def _put(
        self, folder: int, name: str, block: bytes | bytearray | memoryview, expires: float
    ) -> None:
        self._number += 1
        partial = f".{name[:16]}.{os.getpid()}.{self._number}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(partial, flags, 0o600, dir_fd=folder)
        try:
            try:
                header = _HEADER.pack(_MAGIC, len(block), _checksum(name, block))
                for part in (header, block):
                    rest = memoryview(part)
                    while rest:
                        rest = rest[os.write(file, rest) :]
                until = min(expires, self._clock() + LONGEST)
                os.utime(file, (until, until))
            finally:
                os.close(file)
            os.replace(partial, _file(name), src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            raise

    # ---- the folder

    def _has_room(self, folder: int, size: int) -> bool:
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < self._reserve + size:
            self._tell(OSError(errno.ENOSPC, "the disk has less room than is left to others"))
            return False
        if self._used is None or self._used + size > self._limit:
            self.sweep(max(size, self._limit // _ROOM))
        return (self._used or 0) + size <= self._limit

    @contextlib.contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """The namespace's folder, where it is no link and nobody else's. Opened anew each time, a
        few microseconds: somebody may have removed it meanwhile."""
        path = self._folder / self._namespace
        if make:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(folder).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "the folder is somebody else's")
            if make:
                os.fchmod(folder, 0o700)
            yield folder
        finally:
            os.close(folder)

    def _entries(self) -> Iterator[_Entry]:
        """Every block of every namespace, and what was left half written long ago, as expired."""
        now = self._clock()
        for namespace in _listed(self._folder):
            if not _NAME.fullmatch(namespace.name) or not namespace.is_dir(follow_symlinks=False):
                continue
            for file in _listed(namespace.path):
                torn = _TORN.fullmatch(file.name)
                if not torn and not _KEPT.fullmatch(file.name):
                    continue  # whoever has put it there means it
                try:
                    found = file.stat(follow_symlinks=False)
                except OSError:  # another process was faster
                    continue
                if not torn:
                    expires = found.st_mtime if stat.S_ISREG(found.st_mode) else 0.0
                    yield _Entry(expires, found.st_size, file.path)
                elif now - found.st_mtime > _TORN_SECONDS:
                    yield _Entry(0.0, found.st_size, file.path)

    # ---- what goes wrong

    def _miss(self, name: str, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            return  # an ordinary miss
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            self.remove(name)
            return
        self._tell(error)

    def _tell(self, error: OSError) -> None:
        if error.errno not in self._told:
            self._told.add(error.errno)
            log.warning(
                "kept prompts: %s (%s); what cannot be kept or read is computed again",
                error.strerror or error,
                self._folder,
            )


def _file(name: str) -> str:
    assert _NAME.fullmatch(name), name
    return f"{name}.kv"


def _checksum(name: str, block: bytes | bytearray | memoryview) -> int:
    """Of both: a file that was given another's name is damaged too."""
    return zlib.crc32(block, zlib.crc32(name.encode()))


def _filled(file: int, buffer: bytearray | memoryview) -> bool:
    rest = memoryview(buffer)
    while rest:
        count = os.readv(file, [rest])
        if not count:
            return False
        rest = rest[count:]
    return True


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # it is not there yet, or no longer
        return []


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
