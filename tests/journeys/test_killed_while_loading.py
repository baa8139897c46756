"""A server that is ended while its model loads ends at once and leaves no process behind.

vLLM's engine process waits minutes for a server that died before shaking hands with it.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import START_SECONDS, descendants, gone_within

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SENRYU = str(Path(sys.executable).with_name("senryu"))


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ([SENRYU], signal.SIGINT),
        ([sys.executable, "-m", "senryu.server"], signal.SIGKILL),
    ],
    ids=["Ctrl-C", "killed, started as a module"],
)
def test_its_processes_end_with_it(command: list[str], ending: signal.Signals) -> None:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    server = subprocess.Popen(
        [*command, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        # The first child is the resource tracker; the second is the engine, just born.
        while len(descendants(server.pid)) < 2 and server.poll() is None:
            assert time.monotonic() < deadline, "vLLM started no process"
            time.sleep(0.1)
        children = descendants(server.pid)
        assert len(children) >= 2
        server.send_signal(ending)
        assert server.wait(timeout=10) == -ending
        assert gone_within(30, children) == []
    finally:
        server.kill()
        server.communicate()
