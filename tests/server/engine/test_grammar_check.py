"""Schemas are judged before the engine sees them: too large ones at once, hostile ones in a process
that is killed, and none of it is felt by anybody else."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.grammar_check import GrammarCheck, too_much
from senryu.server.turn.dialects.hermes import HermesDialect

VOCABULARY = 49_152
FINE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# Half a minute of work in 60 letters.
HOSTILE = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "((a+)+)+b(c|d|e){0,5000}"}},
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (nested(64), "it is nested more than 64 levels deep"),
        ({"description": "x" * 100_001}, "it is longer than 100,000 characters"),
        ({"enum": list(range(5_001))}, "it lists more than 5,000 things in one place"),
        ({"properties": {"a": {"minItems": 10**6}}}, "minItems is more than 100,000"),
        ({"maxProperties": 1e9}, "maxProperties is more than 100,000"),
    ],
)
def test_a_schema_beyond_measure_is_refused_in_words(schema: dict[str, Any], why: str) -> None:
    assert too_much(schema) == why


@pytest.mark.parametrize(
    "schema",
    [
        FINE,
        HOSTILE,
        nested(63),
        {"properties": {"minItems": {"type": "integer"}, "text": {"maxLength": 10**9}}},
        {"properties": {f"tool_{number}": FINE for number in range(200)}},
        {"enum": ["x" * 10] * 4_000, "description": "how it is used " * 400},
    ],
)
def test_a_schema_of_an_ordinary_size_is_tried(schema: dict[str, Any]) -> None:
    assert too_much(schema) is None


@pytest.fixture
async def check(model_folder: Path) -> AsyncIterator[GrammarCheck]:
    check = GrammarCheck(str(model_folder), VOCABULARY, HermesDialect())
    yield check
    await check.close()


def children() -> list[int]:
    """Processes that are, or descend from, a trial that this one has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "senryu.server.engine.grammar_trial" in words:
            found.append((int(folder.name), int(parent)))
    ours = {pid for pid, parent in found if parent == os.getpid()}
    return [pid for pid, parent in found if pid in ours or parent in ours]


@pytest.mark.vllm
@pytest.mark.slow
async def test_schemas_are_tried_and_a_hostile_one_ends_only_its_own_trial(
    check: GrammarCheck,
) -> None:
    check.warm_up()
    assert await check.refusal(FINE) is None
    first = children()
    assert len(first) == 2

    longest, done = 0.0, False

    async def felt() -> None:
        nonlocal longest
        while not done:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(felt())
    asked = time.perf_counter()
    why = await check.refusal(HOSTILE)
    took = time.perf_counter() - asked
    done = True
    await watching
    assert why == "it takes more than a second to compile; make it simpler"
    assert took < 9, "a second of its own CPU time, however busy the machine"
    assert longest < 0.5, "the event loop goes on"

    assert await check.refusal(FINE) is None
    assert await check.refusal({"type": "integer"}) is None
    assert set(first) & set(children()), "the process that knows the tokenizer was kept"
    kept = time.perf_counter()
    assert await check.refusal(HOSTILE) == why
    assert time.perf_counter() - kept < 0.1, "a verdict is remembered"

    told = await check.refusal({"type": "string", "pattern": r"(a)\1"})
    assert told == (
        "the grammar compiler does not take it (Regex parsing error at position 4: "
        "Backreference is not supported yet.)"
    )

    # Ended from outside, it is started again; and closing leaves nothing behind.
    os.kill(min(first), signal.SIGKILL)
    while set(first) & set(children()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    answers = [await check.refusal({"type": "boolean"}) for _ in range(2)]
    assert answers[-1] is None
    impatient = asyncio.create_task(check.refusal({**HOSTILE, "required": ["a"]}))
    await asyncio.sleep(0.1)
    impatient.cancel()
    assert await check.refusal({"type": "null"}) is None, "answers are not mixed up"
    await check.close()
    assert children() == []


SERVER = """
import asyncio, sys
from senryu.server.engine.grammar_check import GrammarCheck
from senryu.server.turn.dialects.hermes import HermesDialect

async def main():
    check = GrammarCheck(sys.argv[1], 49_152, HermesDialect())
    print(await check.refusal({"type": "integer"}), flush=True)
    await check.refusal({"type": "string", "pattern": "((a+)+)+b(c|d|e){0,5000}"})

asyncio.run(main())
"""


@pytest.mark.vllm
@pytest.mark.slow
def test_a_killed_server_leaves_no_trial_behind(model_folder: Path, tmp_path: Path) -> None:
    """Killed while a trial is at work; whoever lives on would keep the pipe open."""
    program = [sys.executable, "-c", SERVER, str(model_folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == "None\n"
        trial = [int(pid) for pid in _children_of(server.pid)]
        assert trial
        server.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in trial):
        assert time.monotonic() < deadline, "a trial outlived its server"
        time.sleep(0.05)


def _children_of(pid: int) -> list[str]:
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return direct + [each for child in direct for each in _children_of(int(child))]


async def test_no_verdict_is_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trials cannot be started, nobody is told that a schema is fine."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    check = GrammarCheck("no such model", VOCABULARY, HermesDialect())
    assert await check.refusal(FINE) == "it could not be tried in time; try it again"
    await check.close()
