"""Shows whoever waits that the bench goes on: a bar on a terminal, else a line for each repeat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from .client.sample import Sample
from .figures import Figures
from .table import rate_of, seconds_of


@contextmanager
def watcher(stream: TextIO) -> Iterator[Lines]:
    """A bar needs a terminal, and tqdm, which comes with the models."""
    shown = Lines(stream)
    if stream.isatty():
        with suppress(ImportError):
            from tqdm import tqdm

            shown = Bars(stream, tqdm)
    try:
        yield shown
    finally:
        shown.close()


class Lines:
    """A line when something is over; nothing in between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._begun = 0.0

    def begins(self, what: str, requests: int) -> None:
        self._what, self._begun = what, time.monotonic()

    def heard(self, sample: Sample) -> None:
        pass

    def ends(self, figures: Figures | None) -> None:
        took = seconds_of(time.monotonic() - self._begun)
        self._say(f"{self._what}: {said(figures) if figures is not None else took}")

    def close(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bars(Lines):
    """And a bar that grows with each request."""

    def __init__(self, stream: TextIO, bar: Any) -> None:
        super().__init__(stream)
        self._make = bar
        self._bar: Any = None
        self._failed = 0

    def begins(self, what: str, requests: int) -> None:
        super().begins(what, requests)
        self.close()
        self._failed = 0
        self._bar = self._make(total=requests, desc=what, file=self._stream, leave=False)

    def heard(self, sample: Sample) -> None:
        if sample.failure is not None:
            self._failed += 1
            self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
        self._bar.update()

    def ends(self, figures: Figures | None) -> None:
        self.close()
        super().ends(figures)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def said(figures: Figures) -> str:
    """One repeat in half a line."""
    words = [f"{rate_of(figures.output_tokens_per_second)} output tok/s"]
    if figures.ttft is not None:
        words.append(f"first token {seconds_of(figures.ttft.p50)}")
    if failed := figures.requests - figures.good:
        words.append(f"{failed} of {figures.requests} failed")
    return ", ".join(words)
