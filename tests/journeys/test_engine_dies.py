"""The engine's process is killed while the server runs: answers fail as they should, and soon there
are answers again. On the real engine, with a model of random weights."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tiny_model import make_tiny_model

from senryu.server.engine.model_folder import EMBEDDED, find_model

from .conftest import Served, descendants, gone_within, when_ready

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

QUESTION = {
    "model": "tiny",
    "max_tokens": 3_000,
    "messages": [{"role": "user", "content": "Go on and on."}],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dies")
    make_tiny_model(folder / "tiny", find_model(EMBEDDED))
    output = folder / "output.txt"
    command = [sys.executable, "-m", "senryu.server", "serve", "--port", "0", "--device", "cpu"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, "--model", str(folder / "tiny"), "--served-name", "tiny"],
            env=os.environ | {"SENRYU_DATA": str(folder / "data")},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield when_ready(process, output)
        assert process.wait(60) == 0, output.read_text()  # the last test has told it to stop
        assert "Traceback" not in output.read_text()
    finally:
        process.kill()
        process.wait()


def engine_processes(server: int) -> list[int]:
    """Those that hold the model, by how much memory they have."""

    def megabytes(pid: int) -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) // 1024 if found else 0

    return sorted(descendants(server), key=megabytes)[-2:]


def test_answers_fail_then_wait_and_then_come_again(tiny: Served) -> None:
    with httpx.Client(base_url=tiny.url, timeout=120) as client:
        before = set(descendants(tiny.pid))
        with client.stream("POST", "/v1/messages", json=QUESTION | {"stream": True}) as reply:
            lines = reply.iter_lines()
            assert any("content_block_delta" in line for line in lines)
            victim = engine_processes(tiny.pid)[-1]
            os.kill(victim, signal.SIGKILL)
            last = list(lines)[-4:]
        assert any("event: error" in line for line in last), last

        codes, waits = set(), []
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            reply = client.post("/v1/messages", json=QUESTION | {"max_tokens": 5})
            codes.add(reply.status_code)
            if reply.status_code == 200:
                break
            if "retry-after" in reply.headers:
                waits.append(int(reply.headers["retry-after"]))
                assert client.get("/health").status_code == 503
            time.sleep(1)
        assert reply.status_code == 200, reply.text
        assert reply.json()["usage"]["output_tokens"] == 5
        assert 503 in codes, "the server answered all the while, and not in vain"
        assert codes <= {200, 500, 503}
        assert all(1 <= wait <= 60 for wait in waits)
        assert not gone_within(30, [pid for pid in before if pid == victim])
    after = set(descendants(tiny.pid))
    assert len(after) <= len(before), "nothing of the dead one is left"


def test_ctrl_c_in_the_terminal_lets_an_open_answer_finish(tiny: Served) -> None:
    """A terminal sends it to all that the server has started."""
    asked = QUESTION | {"max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{tiny.url}/v1/messages", json=asked, timeout=120) as reply:
        lines = reply.iter_lines()
        assert any("content_block_delta" in line for line in lines)
        os.killpg(tiny.pid, signal.SIGINT)
        rest = list(lines)
    assert "event: message_stop" in rest
    assert "event: error" not in rest
