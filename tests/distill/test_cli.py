"""The door of distill/: light, and honest in its exit status."""

from pathlib import Path

import pytest

from senryu.distill.cli import main


def test_help_names_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "prompts,collect,train,evaluate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["r.toml"], "--out"),
        (["r.toml", "--out", "x", "--only", "sing"], "invalid choice: 'sing'"),
    ],
)
def test_wrong_words_are_named(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_a_missing_recipe_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(tmp_path / "r.toml"), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert told.err == f"There is no recipe {tmp_path / 'r.toml'}: give the path of a TOML file.\n"
    assert told.out == ""
    assert not out.exists()
