"""The page says what the record says, opens without a network, and is one file among three."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from senryu.benches.client.sample import Failure
from senryu.benches.figures import Slo
from senryu.benches.plan import Level
from senryu.benches.record import Ceiling, Record, read
from senryu.benches.report import PAGE, RECORD, SAMPLES, render, write

Build = Callable[..., Record]


def shown(record: Record) -> str:
    text, missing = render(record)
    assert missing is None
    return text


def test_it_shows_the_figures(record: Build) -> None:
    text = shown(record(speeds=(10.0, 14.0, 12.0)))
    assert "<strong>24.0 tok/s</strong>" in text  # at its most
    assert "12.0 <span>(10.0 to 14.0)</span>" in text
    assert text.count("<svg") == 3
    assert "senryu bench --seed 7" in text
    assert "A machine, 2 cores" in text


def test_it_needs_no_network(record: Build) -> None:
    text = shown(record(url="http://somewhere.test")).replace("http://somewhere.test", "")
    assert not re.search(r"https?://|<script|<link|src=|url\((?!#)", text)


def test_it_explains_its_words(record: Build) -> None:
    text = shown(record())
    for word in ("TTFT", "ITL", "TPOT", "E2E", "Goodput", "Percentiles", "Usage is true"):
        assert f">{word}<" in text


def test_failures_and_lies_are_shown(record: Build) -> None:
    failure = Failure(kind="silent", text="nothing came for <5> seconds")
    text = shown(record(failure=failure))
    assert "What failed" in text
    assert "nothing came for &lt;5&gt; seconds" in text
    assert "<strong>6 of 30</strong>" in text
    assert "What failed" not in shown(record())


def test_goodput_and_roofline_are_shown_where_they_are_known(record: Build) -> None:
    ceiling = Ceiling(level=Level(kind="concurrency", value=8.0), tokens_per_second=44.0)
    told = record(slo=Slo(ttft=9.0), roofline=(ceiling,), roofline_from="weights of 1 GB")
    text = shown(told)
    assert "Goodput, at its most" in text
    assert "<strong>50%</strong>" in text
    assert "what the machine allows" in text
    assert "weights of 1 GB" in text


def test_one_level_is_a_page_too_and_so_is_nothing(record: Build) -> None:
    assert shown(record(levels=1)).count("<svg") == 2
    text = shown(record(levels=0, interrupted=True, notes=("It was hot.",)))
    assert "It was stopped before it had measured everything." in text
    assert "It was hot." in text
    assert "<svg" not in text


def test_without_the_means_to_draw_it_is_a_page_and_says_so(
    record: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text, missing = render(record())
    assert missing is not None
    assert "matplotlib" in missing
    assert "<svg" not in text
    assert "12.0" in text


def test_three_files_are_written_and_one_can_be_read_again(record: Build, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "one"
    page, _ = write(record(), [{"a": 1}, {"a": 2}], folder)
    assert page == folder / PAGE
    assert sorted(each.name for each in folder.iterdir()) == sorted([PAGE, RECORD, SAMPLES])
    assert read((folder / RECORD).read_text(), "it").model == "small"
    lines = (folder / SAMPLES).read_text().splitlines()
    assert [json.loads(line)["a"] for line in lines] == [1, 2]
