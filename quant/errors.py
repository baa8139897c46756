"""What goes wrong in this room, as one sentence for the person who ran it."""

from __future__ import annotations


class QuantizeError(RuntimeError):
    """The model cannot be quantized. The text says what happened and what would work instead."""
