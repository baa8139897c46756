"""What goes wrong in this room, as one sentence for the person who ran it."""

from __future__ import annotations


class QuantizeError(RuntimeError):
    """The model cannot be quantized. The text says what happened and what would work instead."""


def reason(problem: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(problem).__name__
