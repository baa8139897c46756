"""Keeps the memory of one training step for the next, on a CPU with glibc.

Left alone, malloc takes large tensors from the kernel and gives them back at once, and the kernel
clears every page again: about a tenth of a step. Comes in: nothing. Goes out: nothing; it is a
context. It refuses to know tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
OFTEN = 128 * 1024  # glibc's own thresholds at the start
NEVER = 2**31 - 1


@contextmanager
def keeping() -> Iterator[None]:
    """For this while freed memory stays with the process; afterwards all of it goes back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield  # another C library
        return
    libc.mallopt(MMAP, NEVER)
    libc.mallopt(TRIM, NEVER)
    try:
        yield
    finally:
        libc.mallopt(MMAP, OFTEN)
        libc.mallopt(TRIM, OFTEN)
        libc.malloc_trim(0)
