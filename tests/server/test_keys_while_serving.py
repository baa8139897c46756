"""A server that runs follows what `senryu keys` does in another process; and one that starts counts
the stored keys."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SENRYU = [sys.executable, "-m", "senryu.server"]
ASKED = {
    "model": "scripted",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "Write a senryu."}],
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Neither the settings of the person who runs the tests, nor their data."""
    monkeypatch.chdir(tmp_path)
    others = {name: value for name, value in os.environ.items() if not name.startswith("SENRYU_")}
    return others | {"SENRYU_DATA": str(tmp_path / "data"), "SENRYU_CACHE": str(tmp_path / "cache")}


def run(environment: dict[str, str], *words: str, status: int = 0) -> str:
    """What it printed, or said where it failed."""
    done = subprocess.run([*SENRYU, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stderr
    return (done.stderr if status else done.stdout).strip()


@pytest.fixture
def url(environment: dict[str, str]) -> Iterator[str]:
    """Of a server that begins without keys."""
    serve = [*SENRYU, "serve", "--engine", "scripted", "--port", "0"]
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = next(line for line in process.stdout if "http://" in line)
        yield re.findall(r"http://[\d.:]+", line)[0]
        process.terminate()


def answered(url: str, key: str | None) -> int:
    headers = {} if key is None else {"x-api-key": key}
    return httpx.post(f"{url}/v1/messages", json=ASKED, headers=headers).status_code


def becomes(url: str, key: str | None, status: int) -> bool:
    """Whether it is so before long: a server looks every second."""
    until = time.monotonic() + 30
    while answered(url, key) != status:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_the_first_key_closes_the_door_and_the_last_one_does_not_open_it(
    url: str, environment: dict[str, str]
) -> None:
    assert answered(url, None) == 200
    ann = run(environment, "keys", "create", "ann")
    assert becomes(url, None, 401)
    assert answered(url, ann) == 200
    nightly = run(environment, "keys", "create", "nightly", "--role", "batch")
    assert becomes(url, nightly, 403)
    run(environment, "keys", "revoke", "ann")
    assert becomes(url, ann, 401)
    run(environment, "keys", "revoke", "nightly")
    assert becomes(url, nightly, 401)
    assert answered(url, None) == 401


def test_other_machines_are_served_only_once_there_is_a_key(environment: dict[str, str]) -> None:
    serve = ["serve", "--engine", "scripted", "--host", "0.0.0.0", "--port", "0"]
    said = run(environment, *serve, status=2)
    assert "senryu keys create" in said
    assert said.count("\n") == 0
    key = run(environment, "keys", "create", "ann")
    with subprocess.Popen(
        [*SENRYU, *serve], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = next((line for line in process.stdout if "http://" in line), "")
        url = re.findall(r"http://[\d.:]+", line)[0]
        assert answered(url, key) == 200
        assert answered(url, None) == 401
        process.terminate()
