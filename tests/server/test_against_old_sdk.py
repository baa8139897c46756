"""An official client of two years ago gets the same answers, streamed or not.

It cannot be installed beside the current one, so it lives in an environment of its own, which
needs uv and a package registry (or uv's cache).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.scripted import POEM

# The last httpx that this client knows how to build.
OLD = ["anthropic==0.39.0", "httpx==0.27.2"]

SCRIPT = """
import json, sys
import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="local")
ask = {
    "model": "claude-3-5-haiku-latest",
    "max_tokens": 100,
    "temperature": 0,
    "stop_sequences": ["questions"],
    "messages": [{"role": "user", "content": "Write a senryu."}],
}
plain = client.messages.create(**ask)
with client.messages.stream(**ask) as stream:
    said = "".join(stream.text_stream)
    final = stream.get_final_message()
count = client.beta.messages.count_tokens(model=ask["model"], messages=ask["messages"])
try:
    client.messages.create(**{**ask, "model": "nope"})
    refused = None
except anthropic.NotFoundError as error:
    refused = error.body["error"]["message"]
shown = [m.model_dump(include={"content", "stop_reason", "usage"}) for m in (plain, final)]
print(json.dumps({
    "version": anthropic.__version__,
    "plain": shown[0],
    "streamed": shown[1],
    "said": said,
    "count": count.input_tokens,
    "refused": refused,
}))
"""


def find_uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the old client."""
    uv = find_uv()
    assert uv, "uv is neither beside this Python nor on the PATH: run make setup"
    python = tmp_path_factory.mktemp("old-sdk") / "venv" / "bin" / "python"
    steps = [
        [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(python.parents[1])],
        [uv, "pip", "install", "--quiet", "--python", str(python), *OLD],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return str(python)


@pytest.mark.slow
def test_an_old_client_gets_the_same_streamed_or_not(old_python: str, server: Any) -> None:
    done = subprocess.run(
        [old_python, "-c", SCRIPT, server.url], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["version"].startswith("0.")
    assert told["plain"] == told["streamed"]
    assert told["plain"]["stop_reason"] == "stop_sequence"
    assert told["said"] == told["plain"]["content"][0]["text"] == POEM.partition("questions")[0]
    assert told["count"] == told["plain"]["usage"]["input_tokens"]
    assert told["refused"] == "model: nope"
