"""`python -m senryu.benches.soak`: 500 streams of the scripted engine for five minutes.

Starts `senryu serve --engine scripted` with a ledger of its own, and drives it from this process:
some of the clients read slowly. Prints what was seen; the last line is JSON. It exits with 1 when
something was promised and did not hold: no error, memory that stays level, events that come evenly
(99 of 100 within 250 ms), and a ledger that has every answer as its client saw it.
"""

import argparse
import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from senryu.benches.processes import cpu_seconds, memory_mib
from senryu.server.device import detect

from .streams import Seen, stream_until

QUESTION = {
    "model": "scripted",
    "max_tokens": 1_000_000,
    "stream": True,
    "messages": [{"role": "user", "content": "Write a senryu."}],
}
SLOW_PAUSE = 0.5
P99_SECONDS = 0.25
GROWTH_MIB = 16.0
"""What memory may grow from the first third of the run to the last: half of it is noise."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run showed."""

    streams: int
    slow_readers: int
    seconds: float
    answers: int
    events_per_second: float
    gap_p50_ms: float
    gap_p99_ms: float
    gap_longest_ms: float
    memory_mib: list[float]
    """Of the server, every few seconds."""
    server_cpu: float
    """Cores that the server kept busy."""
    errors: list[str]
    ledger_differs: int
    """Answers that a client saw and the ledger does not have, or has otherwise."""

    @property
    def growth_mib(self) -> float:
        """The median of the last third over that of the first; the first tenth is left out, in
        which the streams begin."""
        steady = self.memory_mib[len(self.memory_mib) // 10 :]
        third = max(1, len(steady) // 3)
        return sorted(steady[-third:])[third // 2] - sorted(steady[:third])[third // 2]

    @property
    def broken(self) -> list[str]:
        """The promises that did not hold."""
        found = []
        if self.errors:
            found.append(f"{len(self.errors)} errors, such as {self.errors[0]}")
        if self.gap_p99_ms > 1000 * P99_SECONDS:
            found.append(f"99 of 100 events came within {self.gap_p99_ms:.0f} ms, not 250")
        if self.growth_mib > GROWTH_MIB:
            found.append(f"memory grew by {self.growth_mib:.1f} MiB")
        if self.ledger_differs:
            found.append(f"{self.ledger_differs} answers stand otherwise in the ledger")
        return found


def main() -> int:
    flags = argparse.ArgumentParser(prog="python -m senryu.benches.soak")
    flags.add_argument("--streams", type=int, default=500)
    flags.add_argument("--slow", type=int, default=20, help="how many of them read slowly")
    flags.add_argument("--seconds", type=float, default=300.0)
    flags.add_argument("--tokens", type=int, default=1_000, help="of each answer")
    asked = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            measure(Path(folder), asked.streams, asked.slow, asked.seconds, asked.tokens)
        )
    machine = detect({"SENRYU_DEVICE": "cpu"}).summary
    print(table(figures, machine))
    versions = {name: metadata.version(name) for name in ("senryu", "uvicorn", "sqlalchemy")}
    record = {
        "bench": "soak",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions,
        **{name: getattr(figures, name) for name in Figures.__slots__},
        "growth_mib": figures.growth_mib,
        "broken": figures.broken,
    }
    print(json.dumps(record))
    return 1 if figures.broken else 0


async def measure(folder: Path, streams: int, slow: int, seconds: float, tokens: int) -> Figures:
    """Run server and clients. The server ends with SIGTERM, as a service does."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"),
        env=os.environ
        | {
            "SENRYU_DATA": str(folder),
            "SENRYU_SCRIPTED_TOKENS": str(tokens),
            "SENRYU_WINDOW": "2000000",
            "SENRYU_MAX_STREAMS": str(streams),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout
    try:
        port = None
        while port is None:
            line = (await server.stdout.readline()).decode()
            assert line, "the server did not start"
            port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        reading = asyncio.create_task(server.stdout.read())  # or it waits for somebody to read
        seen, memory = Seen(), list[float]()
        loop = asyncio.get_running_loop()
        began, cpu = loop.time(), cpu_seconds(server.pid)
        clients = [
            asyncio.create_task(
                stream_until(
                    int(port[1]),
                    json.dumps(QUESTION).encode(),
                    began + seconds,
                    seen,
                    pause=SLOW_PAUSE if number < slow else 0.0,
                )
            )
            for number in range(streams)
        ]
        slow_ones, fast_ones = clients[:slow], clients[slow:]
        while not all(client.done() for client in fast_ones):
            await asyncio.sleep(min(2.0, seconds / 20))
            memory.append(memory_mib(server.pid))
        took = loop.time() - began
        busy = (cpu_seconds(server.pid) - cpu) / took
        for client in slow_ones:  # they would take an hour to read their answers
            client.cancel()
        await asyncio.gather(*slow_ones, return_exceptions=True)
        await asyncio.gather(*fast_ones)
        server.terminate()
        await server.wait()
        await reading
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    return Figures(
        streams=streams,
        slow_readers=slow,
        seconds=took,
        answers=len(seen.messages),
        events_per_second=seen.events / took,
        gap_p50_ms=1000 * seen.gaps.quantile(0.5),
        gap_p99_ms=1000 * seen.gaps.quantile(0.99),
        gap_longest_ms=1000 * seen.gaps.longest,
        memory_mib=memory,
        server_cpu=busy,
        errors=seen.errors,
        ledger_differs=differences(folder / "senryu.db", seen),
    )


def differences(database: Path, seen: Seen) -> int:
    """How many answers the ledger has not as the client saw them."""
    with sqlite3.connect(database) as ledger:
        rows = ledger.execute(
            "SELECT id, input_tokens, output_tokens FROM ledger WHERE state = 'done'"
        )
        known = {name: (read, written) for name, read, written in rows}
    return sum(known.get(name) != counts for name, counts in seen.messages.items())


def table(figures: Figures, machine: str) -> str:
    """For people."""
    lines = [
        f"{figures.streams} streams for {figures.seconds:.0f} s, {figures.slow_readers} of them"
        f" read slowly, scripted engine, on {machine}",
        f"  events a second              {figures.events_per_second:10,.0f}"
        f"   ({figures.answers:,} answers; the server kept {figures.server_cpu:.2f} cores busy)",
        f"  between two events           {figures.gap_p50_ms:10.1f} ms (median)"
        f"   {figures.gap_p99_ms:.1f} ms (99 of 100)   {figures.gap_longest_ms:.0f} ms (longest)",
        f"  memory                       {figures.memory_mib[0]:10.1f} MiB at first"
        f"   {max(figures.memory_mib):.1f} at most   {figures.growth_mib:+.1f} from first third"
        " to last",
        f"  errors                       {len(figures.errors):10}",
        f"  ledger                       {'as seen' if not figures.ledger_differs else 'DIFFERS'}",
    ]
    return "\n".join([*lines, *(f"  NOT AS PROMISED: {what}" for what in figures.broken)])


if __name__ == "__main__":
    sys.exit(main())
