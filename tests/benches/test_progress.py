"""Who waits sees that something goes on: a bar on a terminal, and lines that stay."""

import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tqdm

from senryu.benches.client.sample import Failure, Sample
from senryu.benches.figures import Slo, figures
from senryu.benches.progress import watcher

Make = Callable[..., Sample]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(stream: io.StringIO, *samples: Sample) -> str:
    with watcher(stream) as shown:
        shown.begins("concurrency 8, repeat 1 of 3", 3)
        for sample in samples:
            shown.heard(sample)
        shown.ends(figures(samples, 2.0, Slo()))
    return stream.getvalue()


def test_a_repeat_is_a_line_where_nobody_watches(sample: Make) -> None:
    said = watched(
        io.StringIO(), sample(), sample(first=None, failure=Failure(kind="silent", text="no"))
    )
    assert said == (
        "concurrency 8, repeat 1 of 3: 2.00 output tok/s, first token 500 ms, 1 of 2 failed\n"
    )


def test_on_a_terminal_a_bar_grows_and_the_line_stays(
    sample: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm", partial(tqdm.tqdm, mininterval=0))  # each step is drawn
    said = watched(Terminal(), *[sample(failure=Failure(kind="silent", text="no"))] * 3)
    assert "3/3" in said
    assert "0/3" in said
    assert said.endswith("concurrency 8, repeat 1 of 3: 0.00 output tok/s, 3 of 3 failed\n")


def test_without_tqdm_a_terminal_has_lines(sample: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    said = watched(Terminal(), sample())
    assert said.count("\n") == 1


def test_a_bar_is_put_away_whatever_happens() -> None:
    stream: Any = Terminal()

    def stopped() -> None:
        with watcher(stream) as shown:
            shown.begins("concurrency 8, warm-up", 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert stream.getvalue().endswith("\r")
