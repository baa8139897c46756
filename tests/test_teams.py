"""The page for teams can be followed: its commands are run from first to last, as they stand."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "teams.md"
SERVE = "senryu serve "


def commands() -> list[str]:
    """Those of all blocks, in order; one may go on over several lines."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    return [
        command.strip()
        for block in blocks
        for command in re.split(r"^\$ ", block, flags=re.M)
        if command.strip()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it is followed: a machine with our commands and examples, and nothing else of ours."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("senryu", "-m senryu.server"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SENRYU_")}
    return mine | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SENRYU_DATA": str(folder / "data"),
        "SENRYU_CACHE": str(folder / "cache"),
        "SENRYU_ENGINE": "scripted",
        "SENRYU_PORT": "0",
    }


def served(command: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of the server that `command` starts, which ends with the iterator."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process.stdout:
        try:
            line = next((line for line in process.stdout if "http://" in line), "")
            assert line, f"{command} did not start"
            yield re.findall(r"http://[\d.:]+", line)[0]
        finally:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_every_command_of_the_page_runs(folder: Path, environment: dict[str, str]) -> None:
    assert len(commands()) > 20
    servers = []
    url, kept = "", ""  # what was exported
    try:
        for command in commands():
            if command.startswith(SERVE):
                server = served(command, folder, environment)
                url = next(server)
                servers.append(server)
                continue
            script = kept + command.replace("http://127.0.0.1:8765", url)
            done = subprocess.run(
                ["sh", "-ec", script.replace("curl ", "curl --fail-with-body ")],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            if command.startswith("export "):
                kept += f"{command.replace('http://127.0.0.1:8765', url)}\n"
    finally:
        for server in servers:
            server.close()  # type: ignore[attr-defined]
    assert (folder / "ann.key").read_text().startswith("sk-senryu-")
    assert (folder / "elsewhere" / "senryu.db").exists()


def test_the_page_tells_of_every_limit_and_every_role() -> None:
    from dataclasses import fields
    from typing import get_args

    from senryu.server.tenancy.callers import Role
    from senryu.server.tenancy.limits import Limits

    text = PAGE.read_text()
    names = [*(each.name for each in fields(Limits)), *get_args(Role)]
    assert [name for name in names if f"`{name}`" not in text] == []
