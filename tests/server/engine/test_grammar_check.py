"""Grammars are tried before the engine sees them: hostile ones in a process that is killed, and
none of it is felt by anybody else."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from senryu.server.conversation.messages import Demands, Tool
from senryu.server.engine.base import EngineError
from senryu.server.engine.grammar_check import GrammarCheck
from senryu.server.turn.dialects.hermes import HermesDialect
from senryu.server.turn.grammar import form_on_trial

VOCABULARY = 49_152


def form(schema: Any) -> str:
    """The structural tag of an answer that fits, whatever the server itself would make of it."""
    said = {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}
    return json.dumps({"type": "structural_tag", "format": said})


def tools(count: int) -> str:
    """What an agent brings."""
    properties = {f"p{number}": {"type": "string"} for number in range(10)} | {
        "unit": {"enum": ["celsius", "fahrenheit"]}
    }
    schema = {"type": "object", "properties": properties, "required": ["p0"]}
    all_of_them = tuple(Tool(name=f"t{n}", input_schema=schema) for n in range(count))
    tag = form_on_trial(HermesDialect(), Demands(callable_tools=all_of_them))
    assert tag
    return tag


FINE = form({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
# Half a minute of work in 60 letters.
HOSTILE = form({"type": "string", "pattern": "((a+)+)+b(c|d|e){0,5000}"})


@pytest.fixture
async def check(model_folder: Path) -> AsyncIterator[GrammarCheck]:
    check = GrammarCheck(str(model_folder), VOCABULARY)
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
    assert await check.refusal(form({"type": "integer"})) is None
    assert set(first) & set(children()), "the process that knows the tokenizer was kept"
    kept = time.perf_counter()
    assert await check.refusal(HOSTILE) == why
    assert time.perf_counter() - kept < 0.1, "a verdict is remembered"

    told = await check.refusal(form({"type": "string", "pattern": r"(a)\1"}))
    assert told == (
        "the grammar compiler does not take it (Regex parsing error at position 4: "
        "Backreference is not supported yet.)"
    )

    # Ended from outside, it is started again; and closing leaves nothing behind.
    os.kill(min(first), signal.SIGKILL)
    while set(first) & set(children()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert await check.refusal(form({"type": "boolean"})) is None
    impatient = asyncio.create_task(check.refusal(HOSTILE.replace("5000", "5001")))
    await asyncio.sleep(0.1)
    impatient.cancel()
    assert await check.refusal(form({"type": "null"})) is None, "answers are not mixed up"

    # So it is when only the one that tries was ended, which says nothing of a schema.
    slow = asyncio.create_task(check.refusal(HOSTILE.replace("5000", "5002")))
    await asyncio.sleep(0.2)
    os.kill(max(children()), signal.SIGKILL)
    assert await slow == why
    await check.close()
    assert children() == []


SERVER = """
import sys, uvloop
from senryu.server.engine.grammar_check import GrammarCheck

async def main():
    check = GrammarCheck(sys.argv[1], 49_152)
    print(await check.refusal(FINE), flush=True)
    await check.refusal(HOSTILE)

uvloop.run(main())
""".replace("FINE", repr(FINE)).replace("HOSTILE", repr(HOSTILE))


@pytest.mark.vllm
@pytest.mark.slow
def test_a_killed_server_leaves_no_trial_behind(model_folder: Path, tmp_path: Path) -> None:
    """Killed while a trial is at work; whoever lives on would keep the pipe open. Ctrl-C, which is
    sent to the group, passes it by."""
    program = [sys.executable, "-c", SERVER, str(model_folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == "None\n"
        trial = [int(pid) for pid in _children_of(server.pid)]
        assert trial
        assert os.getpgid(server.pid) not in {os.getpgid(pid) for pid in trial}
        assert {os.getsid(pid) for pid in trial} == {os.getsid(server.pid)}
        server.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in trial):
        assert time.monotonic() < deadline, "a trial outlived its server"
        time.sleep(0.05)


def _children_of(pid: int) -> list[str]:
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return direct + [each for child in direct for each in _children_of(int(child))]


DEEP: dict[str, Any] = {"type": "null"}
for _ in range(40):
    DEEP = {"type": "array", "items": DEEP, "minItems": 1}


@pytest.mark.vllm
@pytest.mark.slow
async def test_what_compiles_may_still_be_refused(check: GrammarCheck) -> None:
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert await check.refusal(form(loop)) == "no answer fits it"
    assert await check.refusal(form(DEEP)) is None
    nest = {"type": "array", "items": DEEP}
    for _ in range(40):
        nest = {"type": "array", "items": nest}
    assert await check.refusal(form(nest)) == "it is nested too deep"


@pytest.mark.vllm
@pytest.mark.slow
async def test_a_hundred_honest_tools_pass(check: GrammarCheck) -> None:
    assert await check.refusal(tools(100)) is None


async def test_no_verdict_is_no_promise_and_no_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trials cannot be started, nobody is told that a schema is fine, or that it is not; and
    not every request starts one anew."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    check = GrammarCheck("no such model", VOCABULARY)
    for _ in range(3):
        with pytest.raises(EngineError, match="could not try whether an answer can be held"):
            await check.refusal(FINE)
    monkeypatch.setattr(sys, "executable", "no such program: it is not started")
    with pytest.raises(EngineError):
        await check.refusal(FINE)
    await check.close()
