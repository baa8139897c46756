"""What the papers claim is so: commands exist, links lead somewhere, made pages are fresh, and the
examples run."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def name(paper: Path) -> str:
    return str(paper.relative_to(ROOT))


@pytest.mark.parametrize("paper", PAPERS, ids=name)
def test_every_link_to_a_file_leads_somewhere(paper: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", paper.read_text())
    missing = [target for target in targets if not (paper.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("paper", PAPERS, ids=name)
def test_every_make_target_that_is_named_exists(paper: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    code = "\n".join(re.findall(r"`[^`\n]+`|```.*?```", paper.read_text(), re.S))
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", code))
    assert named <= targets


@pytest.mark.parametrize("paper", PAPERS, ids=name)
def test_every_senryu_verb_that_is_named_exists(paper: Path) -> None:
    from senryu.server.cli import VERBS

    code = "\n".join(re.findall(r"`[^`\n]+`|```.*?```", paper.read_text(), re.S))
    named = set(re.findall(r"(?:^|`|\$ |bin/)senryu ([a-z]+)\b", code, re.M))
    assert named <= {*VERBS, "serves"}  # the banner begins: senryu serves


def test_the_pages_that_are_made_from_the_code_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, made in generate.PAGES.items():
        assert (ROOT / "docs" / page).read_text() == made(), f"{page} is stale: make docs"


@pytest.mark.parametrize(("page", "rows"), [("compatibility.md", 80), ("security.md", 25)])
def test_every_row_of_a_page_of_promises_is_proved_by_tests_that_exist(
    page: str, rows: int
) -> None:
    """A link's text is the name of a test in the file that it leads to, in words."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    claims, proved = [], False
    for line in lines:
        if line.endswith("| proof |"):
            proved = True
        elif not line.startswith("|"):
            proved = False
        elif proved and line.startswith("| "):
            claims.append(line)
    assert len(claims) > rows
    for row in claims:
        proofs = re.findall(r"\[([^\]]+)\]\(([^)]+\.py)\)", row.rpartition(" | ")[2])
        assert proofs, f"nothing proves: {row}"
        for promise, file in proofs:
            name = f"def test_{promise.replace(' ', '_')}("
            assert name in (ROOT / "docs" / file).read_text(), f"{file} has no {name}"


def test_every_setting_is_documented() -> None:
    from dataclasses import fields

    from senryu.server.layers import documented
    from senryu.server.settings import ServerSettings

    assert set(documented(ServerSettings)) == {field.name for field in fields(ServerSettings)}


@pytest.fixture(scope="module")
def scripted_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process.stdout:
        line = next(line for line in process.stdout if "http://" in line)
        yield re.findall(r"http://[\d.:]+", line)[0]
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "examples/hello.sh"],
        [sys.executable, "examples/stream.py"],
        [sys.executable, "examples/tool_loop.py"],
        [sys.executable, "examples/structured.py"],
        [sys.executable, "examples/prompt_cache.py"],
        [sys.executable, "examples/batch.py"],
    ],
    ids=str,
)
def test_the_examples_run(scripted_url: str, command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ANTHROPIC_BASE_URL": scripted_url, "ANTHROPIC_API_KEY": "local"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "it says only what it read" in done.stdout.replace("\\n", "\n")
