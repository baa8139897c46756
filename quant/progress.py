"""Tells a person how far long work has come, on stderr, so that stdout stays for results.

Comes in: a number of units, then their names one by one. Goes out: one bar on a terminal, or a
line a stage in a log. It refuses to know what the work is.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Progress(Protocol):
    """What long work reports to."""

    def say(self, sentence: str) -> None:
        """Something that the person should know."""

    def begin(self, units: int) -> None:
        """The work starts and has this many units."""

    def stage(self, name: str) -> None:
        """The next part begins."""

    def done(self, detail: str = "") -> None:
        """One unit is finished."""


LOG_SECONDS = 15.0
"""Between two lines of detail in a log, where nothing is redrawn."""


class Silent:
    """Reports to nobody."""

    def say(self, sentence: str) -> None: ...
    def begin(self, units: int) -> None: ...
    def stage(self, name: str) -> None: ...
    def done(self, detail: str = "") -> None: ...


class Bar:
    """One bar for the whole work; use it with `with`, so that it is closed on errors too."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""
        self._terminal = sys.stderr.isatty()
        self._told = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    def begin(self, units: int) -> None:
        from tqdm import tqdm

        # In a log a redrawn bar is hundreds of lines; there the stages alone are printed.
        # Units differ in weight, so a rate would say nothing.
        self._bar = tqdm(
            total=units,
            disable=not self._terminal,
            leave=False,
            bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed}",
        )

    def stage(self, name: str) -> None:
        self._name = name
        if not self._terminal:
            self.say(f"  {name}")
        elif self._bar is not None:
            self._bar.set_description(name)

    def done(self, detail: str = "") -> None:
        if detail and not self._terminal and time.monotonic() - self._told >= LOG_SECONDS:
            self._told = time.monotonic()
            self.say(f"  {self._name} {detail}")
        if self._bar is not None:
            if detail:
                self._bar.set_description(f"{self._name} {detail}", refresh=False)
            self._bar.update()
