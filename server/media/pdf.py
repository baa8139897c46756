"""The text layer of PDFs, each read in a child process of its own.

A PDF is a stranger's program: reading one may take for ever, or all memory. The child is held to
limits by the kernel and killed when it is over time; what it found, were it only that the PDF is
broken, is kept, for a conversation sends its documents again with every turn.
"""

import hashlib
import json
import subprocess
import sys
import threading
from collections import OrderedDict

from senryu.server.conversation.media import MediaError

_UNREADABLE = "Could not process PDF"
_REMEMBERED_CHARACTERS = 2**24
# Counted for each PDF beside its text, or there would be no end to PDFs of nothing.
_CHARACTERS_OF_A_PLACE = 256

Found = list[str] | str
"""The text of each page; or, in one sentence, why there is none."""


class PdfReader:
    """Reads PDFs of up to `most_pages`, for any number of threads."""

    def __init__(self, *, most_pages: int) -> None:
        self._most_pages = most_pages
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, Found] = OrderedDict()
        self._characters = 0

    def pages(self, data: bytes, *, seconds: float) -> list[str]:
        """The text of each page, empty for one without, if it is read in that time. Raises
        MediaError."""
        found = self._known_or_read(data, seconds)
        if isinstance(found, str):
            raise MediaError(found)
        return found

    def _known_or_read(self, data: bytes, seconds: float) -> Found:
        digest = hashlib.sha256(data).digest()
        with self._lock:
            if digest in self._found:
                self._found.move_to_end(digest)
                return self._found[digest]
        try:
            found = self._read_in_child(data, seconds)
        except subprocess.TimeoutExpired:  # which may be for want of time, so it is not kept
            return _UNREADABLE
        with self._lock:
            self._remember(digest, found)
        return found

    def _remember(self, digest: bytes, found: Found) -> None:
        if digest in self._found:  # another thread read it meanwhile
            return
        self._found[digest] = found
        self._characters += _length(found)
        while self._characters > _REMEMBERED_CHARACTERS:
            _, oldest = self._found.popitem(last=False)
            self._characters -= _length(oldest)

    def _read_in_child(self, data: bytes, seconds: float) -> Found:
        """Raises TimeoutExpired."""
        child = [sys.executable, "-P", "-m", "senryu.server.media.pdf_child"]
        try:
            done = subprocess.run(
                [*child, str(self._most_pages)],
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                process_group=0,  # Ctrl-C lets open requests finish, and so their PDFs
                check=True,
            )
        except subprocess.CalledProcessError:
            return _UNREADABLE
        said = json.loads(done.stdout)
        found: Found = said["refused"] if "refused" in said else said["pages"]
        return found


def _length(found: Found) -> int:
    return _CHARACTERS_OF_A_PLACE + sum(map(len, found)) + len(found)
