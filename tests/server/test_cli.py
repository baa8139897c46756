"""The front door opens quickly, knows its verbs, and opens a room only when it is named."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from senryu.server.cli import VERBS, main

HEAVY = {"fastapi", "pydantic", "starlette", "uvicorn", "httpx", "torch", "vllm", "transformers"}


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown and text in shown for verb, (_, text) in VERBS.items())


def test_no_verb_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    assert "usage: senryu" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from senryu.server.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "senryu" in imported
    assert not imported & HEAVY


def test_an_unknown_verb_exits_2_and_names_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["swerve"])
    assert left.value.code == 2
    assert "serve" in capsys.readouterr().err


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"senryu {version('senryu')}\n"


def test_a_verb_hands_the_rest_of_the_line_to_its_room(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` behind a verb is the room's own."""
    with pytest.raises(SystemExit) as left:
        main(["serve", "--help"])
    assert left.value.code == 0
    assert "--print-config" in capsys.readouterr().out


def test_python_m_is_the_same_front_door() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "senryu.server", "swerve"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "usage: senryu" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_leads_to_a_module(verb: str) -> None:
    assert find_spec(VERBS[verb][0]) is not None
