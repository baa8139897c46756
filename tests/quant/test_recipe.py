"""Promises of `quant/recipe.py`: a TOML file, judged key by key, that decides the weights."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from senryu.quant.errors import QuantizeError
from senryu.quant.recipe import QuantizeRecipe, read_recipe


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == QuantizeRecipe()


def test_every_table_is_read(tmp_path: Path) -> None:
    text = """
        [scheme]
        name = "w4a16"
        group_size = 64
        symmetric = true
        keep = ["model.layers.0.*", "*.down_proj"]
        [calibration]
        tokens = 1000
        [mixed]
        size_budget = 0.5
        [qad]
        tokens = 5000
        codes_rate = 0.0
    """
    recipe = read_recipe(written(tmp_path, text))
    assert recipe.scheme.group_size == 64
    assert recipe.scheme.symmetric
    assert recipe.scheme.keep == ("model.layers.0.*", "*.down_proj")
    assert recipe.calibration.tokens == 1000
    assert (recipe.mixed.size_budget, recipe.mixed.kl_budget) == (0.5, None)
    assert (recipe.qad.tokens, recipe.qad.codes_rate) == (5000, 0.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[scheme]\nnmae = 'w4a16'", "nmae"),
        ("[shceme]\nname = 'w4a16'", "shceme"),
        ("[scheme]\ngroup_size = 'many'", "group_size"),
        ("[scheme]\nrounding = 'up'", "rounding"),
        ("[qad]\ntokens = 1.5", "tokens"),
        ("scheme = 'w4a16'", "scheme"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(QuantizeError, match=named) as refused:
        read_recipe(written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_bounds_and_comparisons_are_for_others_to_read(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "[bounds]\nkl = 1\n[compare]\nx = 1")) == QuantizeRecipe()


@pytest.mark.parametrize("content", [b"[scheme", b"\xff\xfe"])
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(QuantizeError, match=r"recipe\.toml cannot be read") as refused:
        read_recipe(file)
    assert "\n" not in str(refused.value)


def test_no_file_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"There is no recipe .*give the path of a TOML file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(QuantizeError, match="cannot be read"):
        read_recipe(tmp_path)


def test_its_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir("/")
    inside = written(tmp_path, "[calibration]\nsource = 'samples'")
    assert read_recipe(inside).calibration.source == str(tmp_path / "samples")
    absolute = written(tmp_path, f"[calibration]\nsource = '{tmp_path}/else.jsonl'")
    assert read_recipe(absolute).calibration.source == f"{tmp_path}/else.jsonl"


_OTHER: dict[str, Any] = {
    "name": "fp8",
    "rounding": "nearest",
    "scaling": "awq",
    "kv_cache": "fp8",
    "keep": ("*.o_proj",),
}


def test_every_key_that_decides_weights_changes_the_digest() -> None:
    digests = [QuantizeRecipe().digest()]
    for table in ("scheme", "calibration", "mixed", "qad"):
        part = getattr(QuantizeRecipe(), table)
        for key in dataclasses.fields(part):
            if key.name == "source":
                continue
            value = getattr(part, key.name)
            other = _OTHER.get(key.name, not value if isinstance(value, bool) else 7)
            changed = dataclasses.replace(part, **{key.name: other})
            digests.append(dataclasses.replace(QuantizeRecipe(), **{table: changed}).digest())
    assert len(set(digests)) == len(digests) > 20


def test_what_else_decides_them_changes_it_too() -> None:
    recipe = QuantizeRecipe()
    told: list[dict[str, Any]] = [{}, {"files": {"a": "1"}}, {"files": {"a": "2"}}]
    assert len({recipe.digest(calibration=None, **each) for each in told}) == 3
    assert recipe.digest(calibration="1") != recipe.digest(calibration="2")


def test_where_a_calibration_set_lies_does_not() -> None:
    """What is in it does, and that is told apart from where it lies."""
    recipe = QuantizeRecipe()
    moved = dataclasses.replace(recipe.calibration, source="elsewhere")
    other = dataclasses.replace(recipe, calibration=moved)
    assert other.digest(calibration="1") == recipe.digest(calibration="1")
