"""Finds out whether an answer can be held to a form, without taking the risk.

A pattern of fifty letters can keep the grammar compiler busy for half a minute. So each grammar is
first compiled in a process that can be killed (`grammar_trial`), and only then given to the engine.
Verdicts are kept, for clients send the same tools with every request.
"""

import asyncio
import hashlib
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict

from .base import EngineError
from .grammar_trial import Verdict

log = logging.getLogger("senryu.server")

_START_SECONDS = 120.0
_REST_SECONDS = 10.0  # after a start that failed
_ANSWER_SECONDS = 10.0  # for a second of CPU time, on a machine that is busy
_KEPT = 4_096
_FAILURES = (OSError, ValueError, TimeoutError)


class GrammarCheck:
    """The trial's process, and what it has said."""

    def __init__(self, folder: str, vocabulary: int) -> None:
        self._arguments = (folder, str(vocabulary))
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[str | None]] = {}
        self._process: Process | None = None
        self._resting_until = 0.0
        self._turn = asyncio.Lock()
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start the process in the background, for it takes seconds."""
        self._warming = asyncio.create_task(self._ready())

    async def refusal(self, grammar: str) -> str | None:
        """Why no answer can be held to `grammar`, as the end of a sentence; None when one can.
        Raises EngineError when that cannot be found out."""
        key = hashlib.sha256(grammar.encode()).digest()
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            return self._verdicts[key]
        if key not in self._trials:
            trial = asyncio.create_task(self._settle(key, grammar))
            trial.add_done_callback(_told)
            self._trials[key] = trial
        # Whoever leaves while it is tried does not end it: others may wait for the same.
        return await asyncio.shield(self._trials[key])

    async def close(self) -> None:
        tasks = [*self._trials.values(), *([self._warming] if self._warming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end()

    async def _settle(self, key: bytes, grammar: str) -> str | None:
        try:
            async with self._turn:
                verdict = await self._tried(grammar)
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

    async def _tried(self, grammar: str) -> str | None:
        for _ in range(2):  # whatever has ended the first process, a new one may live
            try:
                verdict = await self._said(await self._running(), grammar, _ANSWER_SECONDS)
            except _FAILURES as error:
                log.warning("a schema could not be tried: %s", error or "no answer")
                continue
            if not isinstance(verdict, bool):
                return verdict
        raise EngineError(
            "The server could not try whether an answer can be held to these schemas; try it again"
        )

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            if asyncio.get_running_loop().time() < self._resting_until:
                raise OSError("its process did not start a moment ago")
            # Its numerical libraries would start threads, and it forks.
            alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "senryu.server.engine.grammar_trial", *self._arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env={**os.environ, **alone},
            )
            try:
                await self._said(self._process, None, _START_SECONDS)
            except _FAILURES:
                self._resting_until = asyncio.get_running_loop().time() + _REST_SECONDS
                raise
        return self._process

    async def _said(self, process: Process, tag: str | None, seconds: float) -> Verdict:
        """What it says to `tag`, or once it is ready. One that fails is ended: the next trial has a
        new one."""
        assert process.stdin, "it was started with pipes"
        assert process.stdout, "it was started with pipes"
        try:
            if tag is not None:
                process.stdin.write(f"{tag}\n".encode())
                await process.stdin.drain()
            line = await asyncio.wait_for(process.stdout.readline(), seconds)
            verdict: Verdict = json.loads(line)  # no line at all when it has ended
        except BaseException:
            await self._end()
            raise
        return verdict

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()  # what it has forked ends with it
            await process.wait()


def _told(trial: asyncio.Task[str | None]) -> None:
    """Nobody may be there any longer to be told that it failed: that is no fault of its own."""
    if not trial.cancelled():
        trial.exception()
