"""Servers that answer with exact bytes, right or wrong, and then wait, hang up or go on."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from senryu.benches.asks import Ask

HANG_UP = "hang up"
RESET = "reset"
WAIT = "wait"


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests here run in the loop that measures."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Told:
    """A server with a script, and what it was sent."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    """Connections that the client closed, as far as the server has seen."""


@pytest.fixture
async def telling() -> AsyncIterator[Callable[..., Awaitable[Told]]]:
    """Starts servers: `await telling(reply, reply)`. A reply is a tuple of bytes, each written by
    itself, and of what is done between them; one that is no tuple is all of it. The last one is
    given again and again."""
    servers: list[asyncio.Server] = []
    handlers: set[asyncio.Task[Any]] = set()

    async def telling(
        *replies: Any, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> Told:
        told = Told()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            handlers.add(task)
            told.connections += 1
            try:
                while True:
                    place = len(told.requests)
                    told.requests.append(await read(reader))
                    reply = replies[min(place, len(replies) - 1)]
                    for part in reply if isinstance(reply, tuple) else (reply,):
                        if isinstance(part, bytes):
                            writer.write(part)
                            await writer.drain()
                            await asyncio.sleep(0.001)
                        elif part == HANG_UP:
                            return
                        elif part == RESET:
                            writer.transport.abort()
                            return
                        else:
                            await reader.read()
                            told.ended += 1
                            return
            except (asyncio.IncompleteReadError, ConnectionError):
                told.ended += 1
            finally:
                writer.close()

        server = await asyncio.start_server(answer, host, 0, ssl=tls)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        told.url = f"http{'s' if tls else ''}://{shown}:{port}"
        return told

    yield telling
    for server in servers:
        server.close()
    for handler in handlers:
        handler.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)


async def read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """The first line, the headers and the body of a request."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    return first, headers, await reader.readexactly(int(headers.get("content-length", 0)))


@pytest.fixture
def ask() -> Callable[..., Ask]:
    """The smallest good one; `ask(form="call", temperature=0)` is another."""

    def ask(form: Any = None, counted: int | None = None, **more: Any) -> Ask:
        body = {"max_tokens": 9, "messages": [{"role": "user", "content": "Count."}]}
        return Ask(body=body | more, form=form, counted=counted)

    return ask
