"""What the server's outside judges share: an engine that takes part in a conversation."""

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from anthropic import Anthropic

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.prompt import Prompt


class TalkingEngine(ScriptedEngine):
    """Says one of its scripts to each request, in their order, and the last one ever after."""

    def __init__(self, *scripts: str, **changed: Any) -> None:
        super().__init__(scripts[-1], **changed)
        self._waiting = iter([ScriptedEngine(script, **changed) for script in scripts[:-1]])
        self.read: list[str] = []
        """What it was shown, request by request, as text."""

    def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        self.read.append(bytes(token for token in prompt.token_ids if token < 256).decode())
        speaker = next(self._waiting, None)
        if speaker is None:
            return super().generate(prompt, sampling, request_id)
        return speaker.generate(prompt, sampling, request_id)


@pytest.fixture
def talking_engine() -> type[TalkingEngine]:
    return TalkingEngine


@pytest.fixture
def client_of(serve: Any) -> Iterator[Any]:
    """Gives the official client of a server that says these scripts: `client_of("…", "…")`."""
    clients = []

    def client_of(*scripts: str, **settings: Any) -> Anthropic:
        server = serve(TalkingEngine(*scripts), **settings)
        clients.append(Anthropic(base_url=server.url, api_key="local", max_retries=0))
        return clients[-1]

    yield client_of
    for client in clients:
        client.close()
