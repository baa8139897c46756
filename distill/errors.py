"""What goes wrong in this room, as one sentence for the person who ran it."""

from __future__ import annotations


class DistillError(Exception):
    """The run cannot go on. The text says what happened and what to do; all that was done before
    it is kept."""
