"""What every test may ask for: settings, engines that need no model, and two kinds of client.

`client_for` gives a client inside the process: fast, but it hands over a response only when it is
complete. `serve` runs the server in a thread on a free port, as real clients meet it; what is
about the order of bytes in time, or about leaving early, needs that one.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop

from senryu.server.app import build_app
from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineError, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.http import protocol_for
from senryu.server.install_plan import read_pip_config, uv_environment
from senryu.server.settings import ServerSettings
from senryu.server.turn.prompt import Prompt
from senryu.server.warm_up import Beginnings

# Servers that tests start as commands keep what they keep where nobody misses it.
_DATA = tempfile.TemporaryDirectory(prefix="senryu-tests-", ignore_cleanup_errors=True)
os.environ.setdefault("SENRYU_DATA", _DATA.name)

ClientFor = Callable[..., httpx.AsyncClient]

# A key of our own: none is made in the cache folder of the person who runs the tests.
FIXED: dict[str, Any] = {
    "engine": "scripted",
    "signing_key": "the tests' own",
    "database": "none",  # what is about keeping brings a store of its own
}


class StallingEngine(ScriptedEngine):
    """Says its first `before` tokens and then nothing, until it is released."""

    def __init__(self, script: str | Sequence[str], *, before: int) -> None:
        super().__init__(script)
        self.released = threading.Event()
        self._before = before

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        said = 0
        async with aclosing(super().generate(prompt, sampling, request_id)) as events:
            async for event in events:
                # It is released from another thread: no asyncio.Event can tell.
                while said == self._before and not self.released.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                said += 1
                yield event


class BreakingEngine(ScriptedEngine):
    """Says its first `before` tokens and then breaks, with an EngineError or with our own bug."""

    def __init__(
        self, script: str | Sequence[str], *, before: int, error: Exception | None = None
    ) -> None:
        super().__init__(script)
        self._before = before
        self._error = error or EngineError("The engine failed on this request; try it again")

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        said = 0
        async with aclosing(super().generate(prompt, sampling, request_id)) as events:
            async for event in events:
                if said == self._before:
                    raise self._error
                said += 1
                yield event


@pytest.fixture
def stalling_engine() -> type[StallingEngine]:
    return StallingEngine


@pytest.fixture
def breaking_engine() -> type[BreakingEngine]:
    return BreakingEngine


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(**FIXED)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def body() -> dict[str, Any]:
    """The smallest good request."""
    return {
        "model": "scripted",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Write a senryu."}],
    }


@pytest.fixture
async def client_for() -> AsyncIterator[ClientFor]:
    """Makes clients of an app of its own: `client_for(engine, api_key="…", other_settings=…)`."""
    async with AsyncExitStack() as stack:

        def client_for(
            engine: ScriptedEngine | None = None,
            beginnings: Beginnings | None = None,
            **changed: Any,
        ) -> httpx.AsyncClient:
            settings = ServerSettings(**FIXED | changed)
            app = build_app(settings, engine or ScriptedEngine(), beginnings)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://senryu.test"
            )
            stack.push_async_callback(client.aclose)
            return client

        yield client_for


@pytest.fixture
def client(client_for: ClientFor, engine: ScriptedEngine) -> httpx.AsyncClient:
    """A client of the scripted `engine`, inside this process."""
    return client_for(engine)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens on a port of this machine."""

    url: str
    engine: ScriptedEngine


def _run(
    settings: ServerSettings, engine: ScriptedEngine
) -> tuple[RunningServer, Callable[[], None]]:
    """Start a server in a thread; how it can be reached, and what ends it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(settings, engine),
            http=protocol_for(settings),
            loop="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve, name="server under test")
    thread.start()  # connections wait in the listener's queue until the loop runs

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"

    return RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", engine), stop


@pytest.fixture
def serve() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers of this test's own: `serve(engine, api_key="…", other_settings=…)`."""
    stops = []

    def serve(engine: ScriptedEngine | None = None, **changed: Any) -> RunningServer:
        settings = ServerSettings(**FIXED | changed)
        server, stop = _run(settings, engine or ScriptedEngine())
        stops.append(stop)
        return server

    yield serve
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One server for all tests that only ask it something."""
    server, stop = _run(ServerSettings(**FIXED), ScriptedEngine())
    yield server
    stop()


# The last httpx that this client knows how to build.
OLD_CLIENT = ["anthropic==0.39.0", "httpx==0.27.2"]


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the official client of two years ago.

    It cannot be installed beside the current one, so it has an environment of its own, which needs
    uv and a package registry (or uv's cache).
    """
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    assert uv, "uv is neither beside this Python nor on the PATH: run make setup"
    python = tmp_path_factory.mktemp("old-sdk") / "venv" / "bin" / "python"
    # uv does not read pip's configuration: where packages come from on this machine.
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(pip, capture_output=True, text=True).stdout
    environment = {**os.environ, **uv_environment(read_pip_config(listing), os.environ)}
    steps = [
        [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(python.parents[1])],
        [uv, "pip", "install", "--quiet", "--python", str(python), *OLD_CLIENT],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    return str(python)
