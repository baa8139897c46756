"""The server is killed again and again, at any moment, under interactive work and batches; then the
books are checked. With `make chaos` for CHAOS rounds, and on the real engine too, whose processes
are killed as well.

What a client saw of a request that was cut off is nobody's to say. What it saw to its end stands in
the ledger, token for token; of a batch every request has one result, and one line in the ledger.
"""

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_model import make_tiny_model

from .conftest import START_SECONDS, descendants

ROUNDS = int(os.environ.get("CHAOS", "0"))
SHORT = 3
ITEMS = 60
PER_MINUTE = 20
CLIENTS = 4
COMMAND = (sys.executable, "-m", "senryu.server")

pytestmark = [pytest.mark.slow]


@dataclass
class Ordeal:
    """A server that is killed, and those who use it."""

    folder: Path
    arguments: list[str]
    tokens: int
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    over: threading.Event = field(default_factory=threading.Event)
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    """Usage of the answers that came to their end, by the message's id."""
    statuses: Counter[int] = field(default_factory=Counter)
    batches: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    def senryu(self, *words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "SENRYU_DATA": str(self.folder),
            "SENRYU_SCRIPTED_TOKENS": str(self.tokens),
            "SENRYU_MAX_STREAMS": "8",
        }

    def start(self) -> None:
        """Returns when it listens; requests wait until it answers."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--port", str(self.port), *self.arguments],
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def answers_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return True
            time.sleep(0.1)
        return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def kill_engine(self) -> None:
        assert self.process
        for pid in descendants(self.process.pid)[-1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ask_on_and_on(self, name: str, number: int) -> None:
        """One client: streams and whole answers in turn, and after an error once more."""
        rng = random.Random(number)
        headers = {"x-api-key": self.keys[name]}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        while not self.over.is_set():
            stream = rng.random() < 0.5
            body = {
                "model": "chaos",
                "max_tokens": self.tokens,
                "stream": stream,
                "messages": [{"role": "user", "content": "word " * rng.randint(1, 50)}],
            }
            with suppress(httpx.HTTPError):
                reply = client.post("/v1/messages", json=body)
                self.statuses[reply.status_code] += 1
                if reply.status_code == 200:
                    self.note(reply.text, stream=stream)
                    continue
            time.sleep(0.05)
        client.close()

    def note(self, text: str, *, stream: bool) -> None:
        if not stream:
            message = json.loads(text)
            self.seen[message["id"]] = counts(message["usage"])
        elif "event: message_stop" in text:
            found = re.search(r'"id":"(msg_\w+)"', text)
            ends = [line for line in text.splitlines() if '"type":"message_delta"' in line]
            assert found
            self.seen[found[1]] = counts(json.loads(ends[-1].removeprefix("data: "))["usage"])

    def send_batch(self, number: int) -> None:
        params = {
            "model": "chaos",
            "max_tokens": 20,
            "messages": [{"role": "user", "content": "one of many"}],
        }
        requests = [{"custom_id": f"{number}-{each}", "params": params} for each in range(ITEMS)]
        with suppress(httpx.HTTPError):
            reply = httpx.post(
                f"{self.url}/v1/messages/batches",
                json={"requests": requests},
                headers={"x-api-key": self.keys["free"]},
                timeout=60,
            )
            if reply.status_code == 200:
                self.batches.append(reply.json()["id"])

    def wait_for_batches(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        headers = {"x-api-key": self.keys["free"]}
        while time.monotonic() < deadline:
            told = [
                httpx.get(f"{self.url}/v1/messages/batches/{each}", headers=headers, timeout=60)
                for each in self.batches
            ]
            if all(reply.json()["processing_status"] == "ended" for reply in told):
                return
            time.sleep(0.5)
        pytest.fail(f"batches did not end: {[reply.json() for reply in told]}")


def counts(usage: dict[str, Any]) -> dict[str, int]:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    return {name: usage[name] for name in names}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(ordeal: Ordeal, rounds: int, *, engine_too: bool, seconds: float) -> None:
    """The traffic, the kills, and quiet at the end."""
    limited = ("keys", "create", "limited", "--json", "--limit")
    created = {
        "free": ordeal.senryu("keys", "create", "free", "--json"),
        "limited": ordeal.senryu(*limited, f"requests_per_minute={PER_MINUTE}"),
    }
    ordeal.keys = {name: json.loads(told)["key"] for name, told in created.items()}
    ordeal.port = free_port()
    rng = random.Random(7)
    clients = [
        threading.Thread(target=ordeal.ask_on_and_on, args=(name, number))
        for number in range(CLIENTS)
        for name in ("free", "limited")
    ]
    ordeal.start()
    try:
        assert ordeal.answers_within(START_SECONDS), (ordeal.folder / "output.txt").read_text()
        for client in clients:
            client.start()
        for number in range(rounds):
            ordeal.send_batch(number)
            time.sleep(rng.uniform(0.2, seconds))
            if engine_too and rng.random() < 0.5:
                ordeal.kill_engine()
            else:
                ordeal.kill()
                ordeal.start()
            assert ordeal.answers_within(START_SECONDS), (ordeal.folder / "output.txt").read_text()
        time.sleep(1)
        ordeal.over.set()
        for client in clients:
            client.join()
        ordeal.wait_for_batches(300)
    finally:
        ordeal.over.set()
    check(ordeal, rounds)


def check(ordeal: Ordeal, rounds: int) -> None:
    headers = {"x-api-key": ordeal.keys["free"]}
    results = {
        batch: [
            json.loads(line)
            for line in httpx.get(
                f"{ordeal.url}/v1/messages/batches/{batch}/results", headers=headers, timeout=60
            ).text.splitlines()
        ]
        for batch in ordeal.batches
    }
    assert ordeal.process
    ordeal.process.terminate()
    assert ordeal.process.wait(60) == 0, "it stops as it should, after all that"
    assert "all is sound" in ordeal.senryu("admin", "check")
    with sqlite3.connect(ordeal.folder / "senryu.db") as database:
        database.row_factory = sqlite3.Row
        ledger = database.execute("SELECT * FROM ledger").fetchall()
        names = dict(database.execute("SELECT name, id FROM keys").fetchall())

    # Every request of every batch has exactly one result, and one line that says the same.
    for batch, lines in results.items():
        assert len(lines) == ITEMS
        assert len({line["custom_id"] for line in lines}) == ITEMS
        assert {line["result"]["type"] for line in lines} == {"succeeded"}
        messages = {line["result"]["message"]["id"]: line["result"]["message"] for line in lines}
        done = {row["id"]: row for row in ledger if row["batch_id"] == batch and is_done(row)}
        assert messages.keys() == done.keys()
        for name, message in messages.items():
            assert in_ledger(done[name]) == counts(message["usage"])
    assert ordeal.batches, "there were batches"

    # What clients saw to its end stands there as they saw it.
    known = {row["id"]: row for row in ledger if is_done(row)}
    assert len(ordeal.seen) >= 10 * rounds, ordeal.statuses
    for name, usage in ordeal.seen.items():
        assert name in known, "an answer that was seen is in the ledger"
        assert in_ledger(known[name]) == usage
    # Beyond that, answers that were written down and then not sent: those of the moment of a kill.
    unseen = [row for row in known.values() if row["tier"] == "standard"]
    assert len(unseen) - len(ordeal.seen) <= 2 * CLIENTS * (rounds + 1)
    assert not [row for row in ledger if row["state"] == "open"], "what was cut off is lost"

    # No key passed its limit, restarts or not: a bucket of a minute that refills all the time.
    began = sorted(row["started_at"] for row in ledger if row["key_id"] == names["limited"])
    assert ordeal.statuses[429], "the limit was felt"
    for first, start in enumerate(began):
        for last in range(first, len(began), 7):
            allowed = PER_MINUTE + PER_MINUTE * (began[last] - start) / 60_000 + 1
            assert last - first + 1 <= allowed


def is_done(row: sqlite3.Row) -> bool:
    return bool(row["state"] == "done")


def in_ledger(row: sqlite3.Row) -> dict[str, int]:
    return {
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cache_read_input_tokens": row["cache_read_tokens"],
    }


def test_a_server_that_is_killed_again_and_again_keeps_its_books(tmp_path: Path) -> None:
    arguments = ["--engine", "scripted", "--served-name", "chaos"]
    ordeal = Ordeal(tmp_path, arguments, tokens=30)
    try:
        run(ordeal, ROUNDS or SHORT, engine_too=False, seconds=2.0)
    finally:
        if ordeal.process:
            ordeal.process.kill()
            ordeal.process.wait()


@pytest.mark.vllm
@pytest.mark.skipif(not ROUNDS, reason="make chaos kills the real engine too, for minutes")
def test_so_does_one_on_the_real_engine(tmp_path: Path) -> None:
    from senryu.server.engine.model_folder import EMBEDDED, find_model

    make_tiny_model(tmp_path / "tiny", find_model(EMBEDDED))
    arguments = ["--model", str(tmp_path / "tiny"), "--served-name", "chaos", "--device", "cpu"]
    ordeal = Ordeal(tmp_path, arguments, tokens=20)
    try:
        run(ordeal, max(2, ROUNDS // 5), engine_too=True, seconds=20.0)
    finally:
        if ordeal.process:
            ordeal.process.kill()
            ordeal.process.wait()
