"""An official client of two years ago gets the same answers, streamed or not.

It lives in an environment of its own: see `old_python` in tests/conftest.py.
"""

import json
import subprocess
from typing import Any

import pytest

from senryu.server.engine.scripted import POEM

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
