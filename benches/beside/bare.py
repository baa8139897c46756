"""The engine without a server: the same prompts, as token ids, and no HTTP.

`python -m senryu.benches.beside.bare FILE`, a process of its own. FILE has levels with their
requests. The engine is opened as `senryu serve` would, by the same settings, and asked twice over:

- `bare`: vLLM's AsyncLLM, as little as anyone could do with it. What a server is measured against.
- `engine`: our VllmEngine around it, which makes token events of its outputs.

The last line is what came of it, as JSON. CPU time is this process's own; the engine's core and
workers are others.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from senryu.server.conversation.messages import Sampling
from senryu.server.engine import open_engine
from senryu.server.engine.base import EngineError
from senryu.server.layers import load
from senryu.server.settings import ServerSettings
from senryu.server.turn.prompt import Prompt

Tokens = AsyncIterator[int]
"""How many tokens each output of one answer has."""

SETTLING = 15.0
"""Seconds that each is left alone once it is ready: ours, for one, still loads what tries schemas,
and a core less halves what two cores give."""


async def main(levels: Sequence[dict[str, Any]]) -> None:
    settings = load(ServerSettings, table="server", environment=os.environ, flags={}).settings
    engine: Any = await open_engine(settings)
    try:
        await asyncio.sleep(SETTLING)
        found = []
        for level in levels:
            for name, ask in (("bare", _bare), ("engine", _engine)):
                # Both are asked the same, and neither is to find it read.
                await engine._llm.reset_prefix_cache()
                found.append({"name": name, **await _level(engine, ask, level)})
    finally:
        await engine.close()
    print(json.dumps(found))


async def _bare(engine: Any, asked: dict[str, Any], name: str) -> Tokens:
    """AsyncLLM itself, which our engine holds; asked with the very parameters that it would use."""
    from senryu.server.engine.vllm_engine import _sampling_params

    sampling = _sampling_params(Sampling(max_tokens=asked["max_tokens"], temperature=0))
    async for output in engine._llm.generate({"prompt_token_ids": asked["ids"]}, sampling, name):
        yield len(output.outputs[0].token_ids)


async def _engine(engine: Any, asked: dict[str, Any], name: str) -> Tokens:
    sampling = Sampling(max_tokens=asked["max_tokens"], temperature=0)
    async for event in engine.generate(Prompt(token_ids=asked["ids"]), sampling, name):
        yield len(event.token_ids)


async def _level(
    engine: Any, ask: Callable[[Any, dict[str, Any], str], Tokens], level: dict[str, Any]
) -> dict[str, Any]:
    """Warm-up, then as many at a time as it says."""
    await _closed_loop(engine, ask, level["warm_up"], level["concurrency"])
    cpu, begun = time.process_time(), time.perf_counter()
    tokens, first = await _closed_loop(engine, ask, level["asks"], level["concurrency"])
    seconds, spent = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "concurrency": level["concurrency"],
        "tokens": tokens,
        "seconds": seconds,
        "cpu_seconds": spent,
        "ttft": statistics.median(first),
        "requests": len(level["asks"]),
        "failed": 0,
    }


async def _closed_loop(
    engine: Any,
    ask: Callable[[Any, dict[str, Any], str], Tokens],
    asks: Sequence[dict[str, Any]],
    concurrency: int,
) -> tuple[int, list[float]]:
    """Tokens of all, and the seconds to the first of each."""
    left, total, first = iter(enumerate(asks)), 0, []

    async def one_after_the_other() -> None:
        nonlocal total
        for number, asked in left:
            begun = time.perf_counter()
            waits = True
            async for tokens in ask(engine, asked, f"{ask.__name__}-{begun}-{number}"):
                if waits and tokens:
                    first.append(time.perf_counter() - begun)
                    waits = False
                total += tokens

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    return total, first


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(json.loads(Path(sys.argv[1]).read_text())))
    except EngineError as error:
        raise SystemExit(str(error)) from error
