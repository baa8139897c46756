"""Gives memory that was used once back to the machine.

What a layer needed and freed stays with the allocator, in pieces that the next layer's do not quite
fit: layer by layer the process would grow, although nothing of a layer is kept.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Return free pages to the system, where its allocator knows how (glibc's does)."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    if sys.platform == "linux":
        trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            return trim
    return lambda _: None
