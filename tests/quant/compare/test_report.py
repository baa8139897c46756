"""The page says what was found and nothing that was not, and escapes every word of others."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from senryu.quant.compare.comparison import Comparison
from senryu.quant.compare.report import PAGE, RECORD, render, table, write


def test_words_of_others_are_escaped(found: Comparison) -> None:
    text = render(found)
    assert "tiny &lt;b&gt;" in text
    assert "Look &lt;there&gt; &amp; here" in text
    assert "by GPTQ &amp; care" in text
    assert "<b>" not in text
    assert "<there>" not in text


def test_every_part_has_its_place(found: Comparison) -> None:
    text = render(found)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "What was lost",
        "Speed and size here",
        "By kind of text",
        "Layer by layer",
        "What it says when it is served",
        "How it was made and measured",
    ]
    assert text.count("<svg") == 2
    assert (
        "Here w4a16 is 2.3 times as fast as bf16 at 1 stream and about as fast at 64: serve w4a16"
        in text
    )
    assert "4.50 bits a weight" in text
    assert "2 of 2 → 1 of 2" in text


def test_what_was_not_measured_is_not_told(found: Comparison) -> None:
    text = render(dataclasses.replace(found, speech=None, speed=None))
    assert "served" not in text
    assert "stream" not in text
    assert "0.440" in text


def test_weights_that_are_not_compared_are_said(found: Comparison) -> None:
    measures = dataclasses.replace(found.measures, weights=None)
    text = render(dataclasses.replace(found, measures=measures, notes=("Scale was moved.",)))
    assert text.count("<svg") == 1
    assert "Scale was moved." in text


def test_the_verdict_of_the_gate_stands_at_the_top(found: Comparison) -> None:
    broken = render(dataclasses.replace(found, broken=("the KL is 3, above the bound of 1",)))
    assert "Not to be served: the KL is 3, above the bound of 1." in broken
    assert "times as fast" in broken
    assert "serve w4a16" not in broken
    assert "may be served" in render(dataclasses.replace(found, broken=()))


def test_the_table_can_be_pasted(found: Comparison) -> None:
    lines = table(found).splitlines()
    assert re.fullmatch(r" +bf16 +w4a16", lines[0])
    assert any(re.fullmatch(r"tokens a second, 64 streams +100 +90\.0", each) for each in lines)
    assert any(re.fullmatch(r"KL, nats a token +0\.1000", each) for each in lines)
    assert max(map(len, lines[:-1])) < 80


def test_the_record_reads_back(found: Comparison) -> None:
    told = json.loads(found.text())
    assert told["format"] == 1
    assert told["summary"]["kl"] == 0.1
    assert told["summary"]["speed"] == {"1": 2.3, "64": 0.9}
    assert told["measures"]["rows"][0]["tokens"] == 1200
    assert told["speech"]["pairs"][0]["recorded"][0]["name"] == "look"
    assert told["calibration"]["name"] == "packaged"
    quiet = dataclasses.replace(found, speech=None, speed=None)
    assert json.loads(quiet.text())["summary"]["match"] is None


def test_both_files_are_put_in_their_place(found: Comparison, tmp_path: Path) -> None:
    out = tmp_path / "new" / "place"
    assert write(found, out) == out / PAGE
    assert sorted(each.name for each in out.iterdir()) == [PAGE, RECORD]
    assert (out / PAGE).read_text().startswith("<!DOCTYPE html>")


def test_a_full_disk_leaves_the_report_that_was_there(
    found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(found, tmp_path)
    before = (tmp_path / PAGE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(dataclasses.replace(found, machine="another"), tmp_path)
    assert (tmp_path / PAGE).read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [PAGE, RECORD]


def test_what_a_strange_folder_was_fitted_to_is_not_known(found: Comparison) -> None:
    text = render(dataclasses.replace(found, calibration=None, made=()))
    assert "rounded by itself" not in text
