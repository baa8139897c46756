"""Two tiny folders are compared wholly: both are read, served, asked and timed."""

from pathlib import Path

import pytest

from senryu.quant.compare.recipe import CompareRecipe
from senryu.quant.compare.report import render, table
from senryu.quant.compare.run import compare
from senryu.quant.compare.served import serve
from senryu.quant.errors import QuantizeError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    # torch's own, when compressed-tensors first meets it.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


def test_two_folders_are_compared_wholly(folders: tuple[Path, Path], source: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    recipe = CompareRecipe(
        tokens=300,
        turns=2,
        structured=1,
        max_tokens=24,
        streams=(1, 2),
        output_tokens=4,
        rounds=1,
    )
    found = compare(*folders, recipe, source=source, gate=True)
    assert found.speech
    modes = [pair.mode for pair in found.speech.pairs]
    assert modes.count("forced") == 2
    assert set(modes) == {"auto", "begun", "forced", "json", "json-held"}
    # What a grammar holds is a call, or as much of one as there are tokens for.
    held = [pair.parent for pair in found.speech.pairs if pair.mode == "forced"]
    assert all(said.called and said.tokens <= 24 for said in held)
    assert found.speed
    assert [each.streams for each in found.speed.rates] == [1, 2]
    assert all(each.ratio > 0 for each in found.speed.rates)
    assert found.speed.candidate_load_seconds > 0
    assert found.broken is not None
    assert "as fast as bf16 at 1 stream" in table(found)
    assert "What it says when it is served" in render(found)


def test_a_folder_that_cannot_be_served_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Its child ends without the engine, and the sentence says what the engine said."""
    (tmp_path / "config.json").write_text("[]")
    with (
        pytest.raises(QuantizeError, match=r"cannot be served here .*--no-speech --no-speed"),
        serve(tmp_path, kv_memory_gib=0.5, streams=1),
    ):
        pass
