"""The worker's half: blocks from files into the engine's KV memory, and out of it into files.

Reading has a thread of its own, so that nobody waits for the disk while tokens are computed: the
request whose blocks are read is not computed meanwhile, and no other touches them. What is to be
kept is copied out of the memory between two steps, and written by a second thread. What that
thread cannot keep up with is not kept.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from .files import KeptBlocks
from .work import Load, Save, Work

log = logging.getLogger("senryu.server")

QUEUE_BYTES = 2**28
"""Memory that blocks may take which wait to be written."""
_SWEEP_SECONDS = 60.0  # between two looks for what has expired, and for what others have written


class Mover:
    """`layers` are the KV memory's: of each an array of bytes, a row a block. Rows are contiguous;
    a block is the row of every layer, one after the other."""

    def __init__(
        self,
        files: KeptBlocks,
        layers: Sequence[Any],
        *,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._files = files
        self._layers = layers
        self.size = sum(layer.shape[1] for layer in layers)
        """Bytes of a block."""
        self._room = queue_bytes
        self._to_read: queue.SimpleQueue[Load | None] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[tuple[Save, bytearray] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._read: set[str] = set()
        self._failed: set[int] = set()
        # Daemons: the process may end at any time, and a half written file is no block.
        self._threads = [
            threading.Thread(target=work, name="kept prompts", daemon=True)
            for work in (self._reader, self._writer)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, work: Work) -> None:
        """Begin to read; `read` tells when it is done."""
        for load in work.loads:
            self._to_read.put(load)

    def save(self, work: Work) -> None:
        """Copy what is to be kept; from then on the memory may change."""
        for save in work.saves:
            with self._lock:
                if self._room < self.size:
                    log.warning("kept prompts: the disk is too slow, some are not kept")
                    return
            try:
                copy = self._copied(save.block)
            except MemoryError:
                log.warning("kept prompts: too little memory is free, some are not kept")
                return
            with self._lock:
                self._room -= self.size
            self._to_write.put((save, copy))

    def read(self) -> tuple[set[str], set[int]]:
        """The requests that were read since the last call, and the blocks that could not be."""
        with self._lock:
            read, failed = self._read, self._failed
            self._read, self._failed = set(), set()
        return read, failed

    def close(self, seconds: float = 2.0) -> None:
        """Stop; what waits to be written is, as far as the time goes."""
        self._to_read.put(None)
        self._to_write.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _reader(self) -> None:
        block = bytearray(self.size)
        while load := self._to_read.get():
            failed: set[int] = set()
            try:
                for number, (place, name) in enumerate(load.blocks):
                    if not self._files.read_into(name, block):
                        failed = {place for place, _ in load.blocks[number:]}
                        break
                    self._put(place, block)
            except Exception:
                log.exception("kept prompts: %s is computed instead", load.request_id)
                failed = {place for place, _ in load.blocks}
            with self._lock:
                self._read.add(load.request_id)
                self._failed |= failed

    def _writer(self) -> None:
        due = 0.0  # what expired before we were started goes first
        while True:
            try:
                waiting = self._to_write.get(timeout=max(due - time.monotonic(), 0.01))
            except queue.Empty:
                try:
                    self._files.sweep()
                except Exception:
                    log.exception("kept prompts: what has expired is not removed")
                due = time.monotonic() + _SWEEP_SECONDS
                continue
            if waiting is None:
                return
            save, block = waiting
            try:
                self._files.write(save.name, block, save.expires)
            except Exception:
                log.exception("kept prompts: a block is not kept")
            with self._lock:
                self._room += self.size

    def _copied(self, block: int) -> bytearray:
        copy = bytearray(self.size)
        start = 0
        for layer in self._layers:
            row = layer[block]
            copy[start : start + len(row)] = row.data
            start += len(row)
        return copy

    def _put(self, place: int, block: bytearray) -> None:
        start = 0
        for layer in self._layers:
            row = layer[place]
            row.data[:] = memoryview(block)[start : start + len(row)]
            start += len(row)
