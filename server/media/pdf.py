"""The text layer of PDFs, each read in a child process of its own.

A PDF is a stranger's program: reading one may take for ever, or all memory. The child is held to
limits by the kernel and killed when it is over time; what it found is kept, for a conversation
sends its documents again with every turn.
"""

import hashlib
import json
import subprocess
import sys
import threading
from collections import OrderedDict

from senryu.server.conversation.media import MediaError

_UNREADABLE = "Could not process PDF"
# Beside the child's own limit on CPU time: a machine may be busy, but no request waits longer.
_WALL_SECONDS = 60.0
_CHILDREN = 2
_REMEMBERED_CHARACTERS = 2**24


class PdfReader:
    """Reads PDFs of up to `most_pages`, a few at a time, for any number of threads."""

    def __init__(self, *, most_pages: int, wall_seconds: float = _WALL_SECONDS) -> None:
        self._most_pages = most_pages
        self._wall_seconds = wall_seconds
        self._slots = threading.BoundedSemaphore(_CHILDREN)
        self._lock = threading.Lock()
        self._read: OrderedDict[bytes, list[str]] = OrderedDict()
        self._characters = 0

    def pages(self, data: bytes) -> list[str]:
        """The text of each page, empty for one without. Raises MediaError."""
        digest = hashlib.sha256(data).digest()
        with self._lock:
            if digest in self._read:
                self._read.move_to_end(digest)
                return self._read[digest]
        with self._slots:
            pages = self._read_in_child(data)
        with self._lock:
            self._remember(digest, pages)
        return pages

    def _remember(self, digest: bytes, pages: list[str]) -> None:
        if digest in self._read:  # another thread read it meanwhile
            return
        self._read[digest] = pages
        self._characters += _length(pages)
        while self._characters > _REMEMBERED_CHARACTERS:
            _, oldest = self._read.popitem(last=False)
            self._characters -= _length(oldest)

    def _read_in_child(self, data: bytes) -> list[str]:
        child = [sys.executable, "-P", "-m", "senryu.server.media.pdf_child"]
        try:
            done = subprocess.run(
                [*child, str(self._most_pages)],
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._wall_seconds,
                start_new_session=True,  # Ctrl-C lets open requests finish, and so their PDFs
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise MediaError(_UNREADABLE) from None
        found = json.loads(done.stdout)
        if "refused" in found:
            raise MediaError(found["refused"])
        pages: list[str] = found["pages"]
        return pages


def _length(pages: list[str]) -> int:
    return sum(map(len, pages)) + len(pages)
