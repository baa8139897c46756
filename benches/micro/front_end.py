"""What the front end costs: CPU microseconds a streamed token, and requests a second.

`python -m senryu.benches.micro` starts `senryu serve --engine scripted` pinned to one core and
drives it from this process on another. The scripted engine speaks as fast as it is asked, one
token a frame, so the CPU time of the server process, divided by the tokens, is the price of all
that lies between TokenEvent and socket (the scripted engine's own step included). It is taken of
two answers: plain text, and one that thinks, speaks and calls a tool with a long input.

CPU time is taken from /proc (user and system), so other work on the machine does not count; what
it does change is the speed of a cycle: compare figures of one run only.
"""

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from senryu.benches.processes import cpu_seconds, memory_mib

STOP = b"event: message_stop"
OUTPUT_TOKENS = re.compile(rb'"output_tokens":(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine says, and how it is asked for."""

    text: str
    tokens: int
    wants: bytes = b""
    """More members of the request's JSON."""


def plain(tokens: int) -> Answer:
    """The engine's own poem, again and again."""
    return Answer(text="", tokens=tokens)


def thinking_and_calling(tokens: int) -> Answer:
    """A quarter of it thought, a quarter text, half the input of a call."""
    quarter = "word " * (tokens // 4)
    opening = '<tool_call>\n{"name": "write", "arguments": {"text": "'
    text = f'{quarter}\n</think>\n\n{quarter}\n{opening}{quarter}{quarter}"}}}}\n</tool_call>'
    tools = ", ".join(
        f'{{"name": "{name}", "input_schema": {{"type": "object"}}}}' for name in ("read", "write")
    )
    wants = f'"tools": [{tools}], "thinking": {{"type": "adaptive"}},'
    return Answer(text=text, tokens=len(text.split()), wants=wants.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of the process so far, user and system."""
        return cpu_seconds(self.pid)

    def memory_mib(self) -> float:
        """Resident memory, in MiB."""
        return memory_mib(self.pid)


@asynccontextmanager
async def scripted_server(answer: Answer) -> AsyncIterator[Server]:
    """Our server with the scripted engine saying `answer`, on the first of our cores."""
    core = min(os.sched_getaffinity(0))
    command = [
        sys.executable,
        "-m",
        "senryu.server",
        "serve",
        "--engine",
        "scripted",
        "--port",
        "0",
    ]
    data = tempfile.TemporaryDirectory(prefix="senryu-bench-", ignore_cleanup_errors=True)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line for each request
        env=os.environ
        | {
            "SENRYU_SCRIPTED_TOKENS": str(answer.tokens),
            "SENRYU_SCRIPTED_TEXT": answer.text,
            "SENRYU_DATA": data.name,  # with a ledger, but not somebody's
        },
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert process.stdout
    try:
        port = None
        while port is None:
            line = (await process.stdout.readline()).decode()
            if not line:
                raise SystemExit("bench: the server did not start; the lines above say why")
            if found := re.search(r" on http://[\d.]+:(\d+)", line):
                port = int(found[1])
        yield Server(port=port, pid=process.pid)
    finally:
        process.terminate()
        await process.wait()
        data.cleanup()


def request(*, max_tokens: int, stream: bool, wants: bytes = b"") -> bytes:
    """The bytes of one HTTP request; raw, so that the client costs next to nothing."""
    body = (
        b'{"model":"claude-haiku","max_tokens":%d,"stream":%b,%b'
        b'"messages":[{"role":"user","content":"Count."}]}'
        % (max_tokens, b"true" if stream else b"false", wants)
    )
    head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


async def stream(port: int, answer: Answer) -> int:
    """Reads one stream to its end; how many tokens it says that it was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(request(max_tokens=2 * answer.tokens, stream=True, wants=answer.wants))
    tail = b""
    while STOP not in tail:
        piece = await reader.read(2**18)
        if not piece:
            raise SystemExit("bench: a stream broke off")
        tail = (tail + piece)[-2048:]  # enough for the last two events
    writer.close()
    return int(OUTPUT_TOKENS.findall(tail)[-1])


async def token_cost(server: Server, answer: Answer, *, streams: int) -> tuple[float, float]:
    """CPU microseconds a token with `streams` open at once, and tokens a second."""
    cpu, clock = server.cpu_seconds(), time.monotonic()
    tokens = sum(await asyncio.gather(*(stream(server.port, answer) for _ in range(streams))))
    spent, took = server.cpu_seconds() - cpu, time.monotonic() - clock
    if tokens != streams * answer.tokens:
        raise SystemExit(f"bench: {tokens} tokens came of {streams * answer.tokens}")
    return spent / tokens * 1e6, tokens / took


async def request_rate(server: Server, *, clients: int, each: int) -> tuple[float, float]:
    """Answers of one token: requests a second, and CPU microseconds a request."""

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(each):
            writer.write(request(max_tokens=1, stream=False))
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            assert found
            await reader.readexactly(int(found[1]))
        writer.close()

    cpu, clock = server.cpu_seconds(), time.monotonic()
    await asyncio.gather(*(ask() for _ in range(clients)))
    took = time.monotonic() - clock
    count = clients * each
    return count / took, (server.cpu_seconds() - cpu) / count * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndCost:
    """The figures of one run; medians, with all repeats beside them."""

    us_per_token: float
    us_per_token_repeats: list[float]
    us_per_token_thinking_and_calling: float
    us_per_token_thinking_and_calling_repeats: list[float]
    tokens_per_second: float
    requests_per_second: float
    us_per_request: float
    memory_before_mib: float
    memory_after_mib: float
    tokens: int


async def measure(*, streams: int = 64, tokens: int = 1600, repeats: int = 5) -> FrontEndCost:
    """Warm up, then `repeats` rounds of `streams` streams of `tokens` tokens, of either answer."""
    answer = plain(tokens)
    async with scripted_server(answer) as server:
        await token_cost(server, answer, streams=8)
        before = server.memory_mib()
        rounds = [await token_cost(server, answer, streams=streams) for _ in range(repeats)]
        after = server.memory_mib()
        rate, per_request = await request_rate(server, clients=16, each=200)
    answer = thinking_and_calling(tokens)
    async with scripted_server(answer) as server:
        await token_cost(server, answer, streams=8)
        richer = [await token_cost(server, answer, streams=streams) for _ in range(repeats)]
    costs, richer_costs = [cost for cost, _ in rounds], [cost for cost, _ in richer]
    return FrontEndCost(
        us_per_token=statistics.median(costs),
        us_per_token_repeats=costs,
        us_per_token_thinking_and_calling=statistics.median(richer_costs),
        us_per_token_thinking_and_calling_repeats=richer_costs,
        tokens_per_second=statistics.median(speed for _, speed in rounds),
        requests_per_second=rate,
        us_per_request=per_request,
        memory_before_mib=before,
        memory_after_mib=after,
        tokens=streams * tokens * repeats,
    )
