"""A server inside the process, every answer of which is judged; and how long to go on asking it.

`make test` asks some hundred questions, always the same; `make fuzz` sets FUZZ to ask that many
times more of them, new ones each time.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from wellformed import check_error, check_message, check_stream, frames, prompt_tokens

from senryu.server.app import build_app
from senryu.server.engine.scripted import POEM, ScriptedEngine
from senryu.server.settings import ServerSettings

TIMES = int(os.environ.get("FUZZ", "1"))

CALL = '<tool_call>\n{"name": "look", "arguments": {"where": "Paris", "n": [1, 2]}}\n</tool_call>'
# What the model says, whether or not it was asked for that.
SCRIPTS = (
    POEM,
    f"Let me think.\n</think>\n\nI shall look.\n{CALL}\n{CALL}",
    CALL,
    f"\n \n{CALL}\n\n",
    " \n",
    'Hm.\n</think>\n\n{"a": "x", "b": 1}',
)
COUNTED = (
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "cache_control",
    "context_management",
    "speed",
    "mcp_servers",
    "thread",
)


def runs(examples: int) -> settings:
    """So many examples, times what the environment asks for."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Judge:
    """Sends requests to servers of our own, one for each script and manner, and judges what comes
    back: no 5xx, no error that is not the contract's, no answer that is not well formed."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._clients: dict[tuple[int, bool], httpx.AsyncClient] = {}
        self.sent: dict[int, int] = {}
        """How many requests ended in which status."""

    def client(self, script: int = 0, strict: bool = False) -> httpx.AsyncClient:
        key = (script, strict)
        if key not in self._clients:
            settings = ServerSettings(engine="scripted", strict=strict)
            app = build_app(settings, ScriptedEngine(SCRIPTS[script]))
            transport = httpx.ASGITransport(app)  # it raises what the server lets through
            self._clients[key] = httpx.AsyncClient(
                transport=transport, base_url="http://senryu.test"
            )
        return self._clients[key]

    def send(self, request: httpx.Request, **of: Any) -> httpx.Response:
        response = self._runner.run(self.client(**of).send(request))
        self.sent[response.status_code] = self.sent.get(response.status_code, 0) + 1
        if response.status_code != 200 and request.method != "HEAD":
            check_error(response.status_code, response.headers, response.content)
        assert response.headers["request-id"].startswith("req_")
        return response

    def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None, **of: Any
    ) -> httpx.Response:
        request = self.client(**of).build_request(
            "POST", path, content=json.dumps(body), headers=headers
        )
        return self.send(request, **of)

    def answered(
        self, body: Any, headers: Mapping[str, str] | None = None, **of: Any
    ) -> dict[str, Any] | None:
        """The message that a body is answered with; None when it is refused."""
        response = self.post("/v1/messages", body, headers, **of)
        if response.status_code != 200:
            return None
        if response.headers["content-type"] == "application/json":
            message: dict[str, Any] = response.json()
            check_message(message)
            return message
        last = list(frames(response.text))[-1]
        assert last["type"] == "message_stop", last
        return check_stream(response.text)

    def counted(
        self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, **of: Any
    ) -> int:
        """How many tokens count_tokens finds in a body that was answered."""
        counted = {key: value for key, value in body.items() if key in COUNTED}
        response = self.post("/v1/messages/count_tokens", counted, headers, **of)
        assert response.status_code == 200, response.text
        count: int = response.json()["input_tokens"]
        return count

    def charged(self, message: Mapping[str, Any]) -> int:
        return prompt_tokens(message["usage"])
