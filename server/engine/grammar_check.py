"""Finds out whether an answer can be held to a JSON Schema, without taking the risk.

A pattern of fifty letters can keep the grammar compiler busy for half a minute. So each schema is
first looked at, then compiled in a process that can be killed (`grammar_trial`), and only then
given to the engine. Verdicts are kept, for clients send the same tools with every request.
"""

import asyncio
import hashlib
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from senryu.server.conversation.messages import Demands
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.grammar import structural_tag

log = logging.getLogger("senryu.server")

_LARGEST = 100_000  # characters of one schema
_DEEPEST = 64  # objects and arrays in one another: vLLM's own limit
_MOST_VALUES = 5_000  # in one enum, or properties of one object
_MOST_REPEATS = 100_000
_REPEATS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength")

_START_SECONDS = 120.0
_ANSWER_SECONDS = 10.0  # for a second of CPU time, on a machine that is busy
_KEPT = 4_096
_FAILURES = (OSError, ValueError, TimeoutError)
_UNTRIED = "it could not be tried in time; try it again"


def too_much(schema: Mapping[str, Any]) -> str | None:
    """What of a schema is beyond measure, as the end of a sentence; None when nothing is."""
    level: list[Any] = [schema]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for key in _REPEATS:
                    bound = node.get(key)
                    if isinstance(bound, int | float) and bound > _MOST_REPEATS:
                        return f"{key} is more than {_MOST_REPEATS:,}"
            inside = list(node.values()) if isinstance(node, Mapping) else node
            if len(inside) > _MOST_VALUES:
                return f"it lists more than {_MOST_VALUES:,} things in one place"
            below += [each for each in inside if isinstance(each, dict | list)]
        if not below:
            size = len(json.dumps(schema))
            return f"it is longer than {_LARGEST:,} characters" if size > _LARGEST else None
        level = below
    return f"it is nested more than {_DEEPEST} levels deep"


class GrammarCheck:
    """The trial's process, and what it has said."""

    def __init__(self, folder: str, vocabulary: int, dialect: Dialect) -> None:
        self._arguments = (folder, str(vocabulary))
        self._dialect = dialect
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[str | None]] = {}
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start the process in the background, for it takes seconds."""
        self._warming = asyncio.create_task(self._ready())

    async def refusal(self, schema: Mapping[str, Any]) -> str | None:
        """Why no answer can be held to `schema`, as the end of a sentence; None when one can."""
        excess = too_much(schema)
        if excess is not None:
            return excess
        tag = structural_tag(self._dialect, Demands(output_schema=schema), thinking_budget=None)
        assert tag, "an answer that fits a schema has a grammar"
        key = hashlib.sha256(tag.encode()).digest()
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            return self._verdicts[key]
        if key not in self._trials:
            self._trials[key] = asyncio.create_task(self._settle(key, tag))
        # Whoever leaves while it is tried does not end it: others may wait for the same.
        return await asyncio.shield(self._trials[key])

    async def close(self) -> None:
        tasks = [*self._trials.values(), *([self._warming] if self._warming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end()

    async def _settle(self, key: bytes, tag: str) -> str | None:
        try:
            async with self._turn:
                verdict = await self._tried(tag)
        except _FAILURES as error:
            log.warning("a schema could not be tried: %s", error or "no answer")
            return _UNTRIED
        finally:
            del self._trials[key]
        self._verdicts[key] = verdict
        if len(self._verdicts) > _KEPT:
            self._verdicts.popitem(last=False)
        return verdict

    async def _ready(self) -> None:
        async with self._turn:
            try:
                await self._running()
            except _FAILURES as error:
                log.warning("schemas cannot be tried yet: %s", error or "no answer")

    async def _tried(self, tag: str) -> str | None:
        process = await self._running()
        return await self._said(process, tag, _ANSWER_SECONDS)

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            # Its numerical libraries would start threads, and it forks.
            alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "senryu.server.engine.grammar_trial", *self._arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env={**os.environ, **alone},
            )
            await self._said(self._process, None, _START_SECONDS)
        return self._process

    async def _said(self, process: Process, tag: str | None, seconds: float) -> str | None:
        """What it says to `tag`, or once it is ready. One that fails is ended: the next trial has a
        new one."""
        assert process.stdin, "it was started with pipes"
        assert process.stdout, "it was started with pipes"
        try:
            if tag is not None:
                process.stdin.write(f"{tag}\n".encode())
                await process.stdin.drain()
            line = await asyncio.wait_for(process.stdout.readline(), seconds)
            verdict: str | None = json.loads(line)  # no line at all when it has ended
        except BaseException:
            await self._end()
            raise
        return verdict

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()  # what it has forked ends with it
            await process.wait()
