"""What ships is whole: the wheel alone gives the command, and leaves nothing but `senryu`.

The quick tests read pyproject and start `senryu --help`. The slow ones build the source
distribution and the wheel from it, in a copy of the project, and install them into environments
of their own; uv takes the few base packages from its cache, so that a set-up must have run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from senryu.server.install_plan import read_pip_config, uv_environment

ROOT = Path(__file__).parents[1]
ROOMS = ("server", "distill", "quant", "benches")
HEAVY = {"torch", "transformers", "vllm", "fastapi", "pydantic", "uvicorn", "httpx", "asyncio"}
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Its output, both streams; a failure shows all of it."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_package_is_listed_by_name() -> None:
    """A forgotten sub-package works in a clone and is missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [
        path.parent.relative_to(ROOT)
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(".".join(("senryu", *folder.parts)) for folder in folders)


def test_every_folder_with_python_is_a_package() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_help_opens_no_heavy_door() -> None:
    said = run(sys.executable, "-X", "importtime", "-m", "senryu.server", "--help")
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if "|" in line}
    assert "argparse" in imported
    assert not imported & HEAVY


def test_help_answers_at_once() -> None:
    """The quickest of five: a busy machine can slow down any one of them."""
    command = [sys.executable, "-m", "senryu.server", "--help"]
    best = 9.0
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        best = min(best, time.perf_counter() - begun)
    assert best < 0.3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files and nothing else, as a clean clone has them."""
    copy = tmp_path_factory.mktemp("tree")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree)
    return folder


class Environment:
    """A fresh environment, filled by uv from its cache or else from the registry."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        beside = Path(sys.executable).parent / "uv"
        self.uv = str(beside) if beside.exists() else shutil.which("uv")
        assert self.uv, "these tests install with uv, which `make setup` puts beside python"
        listing = run(sys.executable, "-m", "pip", "config", "list")
        self.told = uv_environment(read_pip_config(listing), os.environ)

    def install(self, *what: str | Path) -> None:
        """With the versions of the lock, so that the cache has them."""
        command = [self.uv, "pip", "install", "--quiet", "--python", self.bin / "python"]
        command += ["--constraints", ROOT / "locks" / "cpu.txt", *what]
        try:
            run(*command, "--offline", **self.told)
        except AssertionError:
            run(*command, **self.told)

    @property
    def installed(self) -> set[str]:
        """The top level of what is installed there."""
        [packages] = self.folder.glob("lib/python*/site-packages")
        return {path.name for path in packages.iterdir()}


@pytest.fixture(scope="module")
def wheel_alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and what it asks for, far from the clone."""
    environment = Environment(tmp_path_factory.mktemp("alone") / "venv")
    environment.install(*built.glob("*.whl"))
    return environment


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_under_one_name(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"senryu", f"{wheel.name.split('-py3')[0]}.dist-info"}
    for room in ROOMS:
        assert f"senryu/{room}/__init__.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_alone_gives_the_command_and_leaves_no_stranger(
    wheel_alone: Environment, tmp_path: Path
) -> None:
    said = run(wheel_alone.bin / "senryu", "--help", cwd=tmp_path)
    assert "serve" in said
    assert "senryu" in wheel_alone.installed
    assert not wheel_alone.installed & {*ROOMS, "tests", "docs", "examples", "locks"}


@pytest.fixture
def scripted_server(wheel_alone: Environment, tmp_path: Path) -> Iterator[str]:
    """`senryu serve --engine scripted` on a free port: its address."""
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [wheel_alone.bin / "senryu", "serve", "--engine", "scripted", "--port", "0"],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := ADDRESS.search(log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[0]
        server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, 130), log.read_text()
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_the_wheel_alone_serves_the_scripted_engine(scripted_server: str) -> None:
    with urllib.request.urlopen(f"{scripted_server}/health", timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_an_editable_install_follows_the_files(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("editable")
    environment = Environment(folder / "venv")
    environment.install("setuptools")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment.bin / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--editable",
        tree,
    )
    assert "serve" in run(environment.bin / "senryu", "--help", cwd=folder)
    (tree / "server" / "newcomer.py").write_text("WORD = 'found without a reinstall'\n")
    code = "import senryu.server.newcomer as new; print(new.WORD)"
    assert "found without" in run(environment.bin / "python", "-c", code, cwd=folder)
