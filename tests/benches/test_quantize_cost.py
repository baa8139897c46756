"""The bench runs a shape with one layer and with two, and adds up the rest rightly."""

import json
from pathlib import Path
from typing import Any

import pytest

from senryu.benches import quantize_cost
from senryu.benches.quantize_cost import SHAPES, Shape, whole_seconds


class Machine:
    """Where a run of one layer takes 100 s and every further one 160 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.layers: list[int] = []
        monkeypatch.setattr(quantize_cost, "_run", self._run)
        monkeypatch.setattr(quantize_cost, "_made", self._made)
        monkeypatch.setattr(quantize_cost, "_embedded", lambda: Path("the/embedded"))

    def _run(self, command: list[str]) -> dict[str, Any]:
        if "-c" in command:
            return {"seconds": 5.0, "cpu_seconds": 4.0, "peak_bytes": 400}
        self.commands.append(command)
        further = (self.layers or [1])[-1] - 1
        seconds = 100.0 + 160.0 * further
        return {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_bytes": 1000 + further}

    def _made(self, place: Path, shape: str, layers: int) -> Path:
        self.layers.append(layers)
        folder = place / "model"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 10 * layers)
        return folder


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


@pytest.mark.parametrize(
    ("one", "two", "layers", "seconds"),
    [(100, 260, 1, 100), (100, 260, 2, 260), (100, 260, 32, 100 + 31 * 160), (5, 5, 9, 5)],
)
def test_every_further_layer_takes_as_long_as_the_second(
    one: float, two: float, layers: int, seconds: float
) -> None:
    assert whole_seconds(one, two, layers) == seconds


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_run_with_one_layer_and_with_two(
    shape: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize_cost.main(["--shape", shape, "--", "--rounding", "nearest"]) == 0
    assert machine.layers == [1, 2]
    assert all(each[-2:] == ["--rounding", "nearest"] for each in machine.commands)
    record = told(capsys)
    assert [run["layers"] for run in record["runs"]] == [1, 2]
    assert [run["seconds"] for run in record["runs"]] == [100.0, 260.0]
    assert [run["model_bytes"] for run in record["runs"]] == [10, 20]
    assert record["peak_bytes"] == 1001
    hours = (100 + (SHAPES[shape].layers - 1) * 160) / 3600
    assert record["whole_model"] == {"layers": SHAPES[shape].layers, "hours": round(hours, 2)}


def test_the_embedded_model_is_run_as_it_is(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize_cost.main([]) == 0
    assert machine.layers == []
    assert [each[3] for each in machine.commands] == ["the/embedded"]
    record = told(capsys)
    assert len(record["runs"]) == 1
    assert "whole_model" not in record


@pytest.mark.parametrize("tied", [True, False])
def test_a_made_model_has_the_layers_and_the_head_that_were_asked_for(
    tied: bool, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "tokenizer")
    shape = Shape(width=64, mlp=96, heads=4, key_heads=2, layers=9, tied=tied, vocabulary=50_000)
    quantize_cost._random(tmp_path / "model", shape, 2, tmp_path / "tokenizer")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as stored:
        names = set(stored.keys())
        size = stored.get_slice("model.embed_tokens.weight").get_shape()
    assert size == [50_000, 64]
    assert ("lm_head.weight" in names) == (not tied)
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"0", "1"}


def test_the_larger_shape_has_a_head_of_its_own() -> None:
    assert (SHAPES["8b"].tied, SHAPES["8b"].vocabulary) == (False, 128_256)


def test_a_run_that_failed_ends_the_bench_with_its_status() -> None:
    with pytest.raises(SystemExit) as left:
        quantize_cost._run(["python3", "-c", "raise SystemExit(3)"])
    assert left.value.code == 3
