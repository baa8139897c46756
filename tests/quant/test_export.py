"""Promises of `quant/export.py`: a model in memory becomes a folder that loads as the same."""

import contextlib
from pathlib import Path

import pytest
import torch

from senryu.quant.export import no_bars, save

from .conftest import tiny_llama, tiny_tokenizer


def test_what_is_saved_is_loaded_as_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_llama()
    save(tmp_path / "out", model, tiny_tokenizer())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, weight in model.named_parameters():
        assert torch.equal(again.get_parameter(name), weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["w7"] == 7


def test_nothing_is_drawn_beside_our_own_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "out", tiny_llama(), tiny_tokenizer())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shown", [True, False])
def test_others_bars_are_afterwards_as_they_were(shown: bool) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        with contextlib.suppress(ValueError), no_bars():
            assert not logging.is_progress_bar_enabled()
            raise ValueError
        assert logging.is_progress_bar_enabled() is shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
