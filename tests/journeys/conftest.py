"""The real thing, once for the whole run: `senryu serve` with the embedded model on vLLM.

It is started as a user starts it, in a process of its own, and killed with SIGKILL at the end:
that nothing of it is left then is part of what is tested.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_SECONDS = 600  # the model may have to be prepared first, on a slow and busy machine


@dataclass(frozen=True)
class Served:
    url: str
    pid: int
    banner: str

    @property
    def worker(self) -> int:
        """The process that computes: a grandchild of the server."""
        return max(descendants(self.pid), key=cpu_seconds)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    """A zombie has ended; it only waits for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    output = tmp_path_factory.mktemp("served") / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "senryu.server", "serve", "--port", "0"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield when_ready(process, output)
        children = descendants(process.pid)
        assert children, "vLLM runs in processes of its own"
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = gone_within(30, children)
        assert not left, f"processes outlived a killed server: {left}"
    finally:
        process.kill()


def gone_within(seconds: float, pids: list[int]) -> list[int]:
    """Those that are still alive after so long."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def when_ready(process: subprocess.Popen[bytes], output: Path) -> Served:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = output.read_text()
        if "Ctrl-C stops it" in text:
            found = re.search(r"(http://127\.0\.0\.1:\d+)", text)
            assert found
            return Served(url=found[1], pid=process.pid, banner=text)
        time.sleep(0.5)
    pytest.fail(f"senryu serve did not get ready; it said:\n{output.read_text()[-3000:]}")
