"""A recipe says what it takes, and what is wrong with one in a sentence."""

import dataclasses
from pathlib import Path

import pytest

from senryu.quant.compare.recipe import Bounds, CompareRecipe, read_recipe
from senryu.quant.errors import QuantizeError


def written(folder: Path, text: str) -> Path:
    (folder / "gate.toml").write_text(text)
    return folder / "gate.toml"


def test_keys_change_defaults(tmp_path: Path) -> None:
    told = read_recipe(
        written(tmp_path, "[compare]\nstreams = [1, 2]\nspeech = false\n[bounds]\nkl = 1\n")
    )
    asked = dataclasses.replace(Bounds.none(), kl=1.0)  # and nothing else
    assert told == CompareRecipe(streams=(1, 2), speech=False, bounds=asked)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == CompareRecipe()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[compare]\ntoken = 5", "compare.token is no key of a recipe; did you mean 'tokens'"),
        ("[compare]\nzzz = 5", "it takes tokens"),
        ("[compare]\ntokens = 0", "takes a whole number from 1 on"),
        ("[compare]\ntokens = true", "takes a whole number"),
        ("[compare]\nspeech = 1", "takes true or false"),
        ("[compare]\nstreams = []", "takes a list of whole numbers"),
        ("[compare]\nstreams = [0]", "takes a list of whole numbers"),
        ("[compare.bounds]\nkl = 1", r"under \[bounds\]"),
        ("[bounds]\nkl = -1", "takes numbers from 0 on"),
        ("[bounds]\nkl = nan", "takes numbers from 0 on"),
        ("[bounds]\nkl = inf", "takes numbers from 0 on"),
        ("[bounds]", "is empty and would let everything through"),
        ("[bound]\nkl = 1", "bound is no table of a recipe"),
        ("bounds = 3", "must be a table"),
        ("[bounds", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(QuantizeError, match=words):
        read_recipe(written(tmp_path, text))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_the_quick_one_measures_less_and_asks_the_same() -> None:
    quick = CompareRecipe(bounds=Bounds(kl=1)).quick()
    assert quick.tokens < CompareRecipe().tokens
    assert quick.bounds == Bounds(kl=1)


def test_the_quick_one_never_measures_more_than_the_file_asks() -> None:
    assert CompareRecipe(tokens=100, turns=2).quick().tokens == 100
    assert CompareRecipe(tokens=100, turns=2).quick().turns == 2


def test_tables_of_quantize_stand_beside(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "[scheme]\nname = 'fp8'\n")) == CompareRecipe()
