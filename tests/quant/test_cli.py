"""Promises of the quant door: light, and honest in its exit status."""

import errno
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_kinds import tiny_folder

from senryu.quant import cli
from senryu.quant.cli import main as quant
from senryu.quant.recipe import QuantizeRecipe
from senryu.quant.schemes import SCHEMES


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["some/model"], "give --out DIR"),
        (["embedded", "--scheme", "nf4"], "give --out DIR"),
        (["embedded", "--group-size", "64"], "give --out DIR"),
        (["embedded", "--calibration-tokens", "0"], "give --out DIR"),
        (["embedded", "--compare"], "give --out DIR"),
        (["embedded", "--qad"], "give --out DIR"),
        (["some/model", "--out", "x", "--scheme", "bf16"], "a folder in bf16 stays as it is"),
        (["embedded", "--out", "x", "--scheme", "bf16"], "leave --out away"),
        (["some/model", "--out", "x", "--rounding", "up"], "nearest"),
        (["some/model", "--out", "x", "--group-size", "many"], "many"),
        (["--to", "int4"], "MODEL"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant(words) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_holds_no_model_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{tmp_path} is not a model folder")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr("senryu.quant.folder.quantize_folder", fail)
    assert quant([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err.strip()
    assert err.count("\n") == 0
    assert "No space left on device" in err
    assert "make room" in err


def test_stopped_by_hand_it_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("senryu.quant.folder.quantize_folder", stop)
    assert quant([str(tmp_path), "--out", str(tmp_path / "out")]) == 130
    assert "it goes on where it was" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_folder_is_made_and_its_name_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tiny_folder(tmp_path / "llama"), tmp_path / "out"
    capsys.readouterr()  # transformers drew a bar while it saved
    assert quant([str(source), "--out", str(out), "--rounding", "nearest"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert told.err.split() == ["quantize", "write"]
    assert (out / "senryu.json").exists()


def test_a_recipe_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", str(tmp_path / "none.toml"), "--out", str(tmp_path / "out")]
    source = tiny_folder(tmp_path / "llama")
    capsys.readouterr()  # transformers drew a bar while it saved
    assert quant([str(source), *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith("There is no recipe")
    assert err.count("\n") == 1


def recipe_of(*words: str) -> QuantizeRecipe:
    return cli._recipe(cli._parser().parse_args(["some/model", "--out", "x", *words]))


@pytest.mark.parametrize(
    ("words", "table", "key", "value"),
    [
        (["--scheme", "nf4"], "scheme", "name", "nf4"),
        (["--group-size", "64"], "scheme", "group_size", 64),
        (["--symmetric"], "scheme", "symmetric", True),
        (["--rounding", "nearest"], "scheme", "rounding", "nearest"),
        (["--scaling", "awq"], "scheme", "scaling", "awq"),
        (["--kv-cache", "fp8"], "scheme", "kv_cache", "fp8"),
        (["--calibration", "samples"], "calibration", "source", "samples"),
        (["--calibration-tokens", "100"], "calibration", "tokens", 100),
        (["--size-budget", "0.5"], "mixed", "size_budget", 0.5),
        (["--kl-budget", "0.1"], "mixed", "kl_budget", 0.1),
        (["--qad"], "qad", "tokens", 200_000),
        (["--qad", "5000"], "qad", "tokens", 5000),
    ],
)
def test_a_flag_changes_one_key_of_the_recipe(
    words: list[str], table: str, key: str, value: object
) -> None:
    recipe = recipe_of(*words)
    assert getattr(getattr(recipe, table), key) == value
    part = replace(getattr(QuantizeRecipe(), table), **{key: value})
    assert recipe == replace(QuantizeRecipe(), **{table: part})


def test_flags_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[scheme]\ngroup_size = 64\nsymmetric = true\n")
    recipe = recipe_of("--recipe", str(file), "--group-size", "128")
    assert (recipe.scheme.group_size, recipe.scheme.symmetric) == (128, True)


def test_help_says_of_every_scheme_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(["--help"]) == 0
    told = capsys.readouterr().out
    for name, (_, says, *_) in SCHEMES.items():
        assert f"  {name:<9} {says}" in told
    for flag in ("--recipe", "--calibration", "--qad", "--compare", "--gate", "--size-budget"):
        assert flag in told


@pytest.mark.parametrize("words", [[], ["--help"], ["embedded", "--help"]])
def test_help_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(words) == 0
    assert "embedded" in capsys.readouterr().out


def test_an_unknown_scheme_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert quant(["embedded", "--scheme", "int3"]) == 2
    err = capsys.readouterr().err
    assert "w4a16" in err
    assert "bf16" in err


@pytest.mark.parametrize("room", ["quant", "distill"])
def test_help_opens_no_heavy_door(room: str) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"senryu.{room}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - started < 2  # 0.1 s on a quiet machine
    assert not [line for line in done.stderr.splitlines() if line.endswith(" torch")]
