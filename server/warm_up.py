"""Remembers how prompts begin, to read them once more when the server starts.

Agents send the same tools and system prompt for days. What stands up to the marks on those is noted
in a file each, with the salt that it was read under, so that the first question of the day finds it
in the cache. Notes hold parts of prompts: they are their owner's alone, and go after a day.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import time
from array import array
from collections.abc import Container, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import Engine, EngineError, PromptRefused
from senryu.server.traffic import Traffic
from senryu.server.turn.prompt import Prompt

log = logging.getLogger("senryu.server")

DAY = 86_400
"""Seconds that a beginning is remembered after its last use."""
MOST = 32
"""Beginnings that are remembered, and read at start."""
SHORTEST = 256
"""Tokens that are worth a note."""
LATE = 1_000
"""The priority of reading at start: behind all that somebody waits for."""
_SUFFIX = ".json"
_FRESH = 60.0
_ANY_FORM = '{"type":"structural_tag","format":{"type":"any_text"}}'
_ONE_TOKEN = Sampling(max_tokens=1, temperature=0.0)


def beginning(prompt: Prompt) -> Prompt | None:
    """What of a prompt other conversations will begin with; None when too little is marked so."""
    length = max((mark.tokens for mark in prompt.marks if mark.part != "messages"), default=0)
    if length < SHORTEST:
        return None
    return Prompt(token_ids=prompt.token_ids[:length], salt=prompt.salt, priority=LATE)


@dataclass(slots=True)
class Beginnings:
    """The notes of one model, one file each; a file's time is that of its last use."""

    folder: Path
    model: str
    """What tells the model's tokens from another one's."""

    def note(self, prompt: Prompt) -> None:
        """Remember how this prompt begins. Where it cannot be written it is not remembered."""
        begun = beginning(prompt)
        if begun is None:
            return
        ids = array("I", begun.token_ids).tobytes()
        name = hashlib.sha256(b"\0".join((self.model.encode(), begun.salt.encode(), ids)))
        file = self.folder / f"{name.hexdigest()}{_SUFFIX}"
        try:
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > _FRESH:
                    os.utime(file)
                return
            told = {"model": self.model, "salt": begun.salt, "token_ids": begun.token_ids}
            self._write(file, json.dumps(told).encode())
            for _, old in sorted(self._files(), reverse=True)[MOST:]:
                old.unlink(missing_ok=True)
        except OSError as problem:
            log.warning("The beginning of a prompt is not remembered: %s", problem)

    def known(self) -> Iterator[Prompt]:
        """Those of the last day, the latest first; older ones are removed, and damaged ones."""
        with suppress(OSError):
            for used, file in sorted(self._files(), reverse=True):
                told = _read(file) if time.time() - used < DAY else None
                if told is None:
                    file.unlink(missing_ok=True)
                elif told[0] == self.model:
                    yield told[1]

    def _files(self) -> Iterator[tuple[float, Path]]:
        for file in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # another thread was tidying up
                yield file.stat().st_mtime, file

    def _write(self, file: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = file.with_name(f".{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as to:
                to.write(content)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def _read(file: Path) -> tuple[str, Prompt] | None:
    try:
        told = json.loads(file.read_bytes())
        ids = array("I", told["token_ids"]).tolist()
        prompt = Prompt(token_ids=ids, salt=str(told["salt"]), priority=LATE)
        return (str(told["model"]), prompt) if ids else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


async def warm_up(
    beginnings: Beginnings, engine: Engine, salts: Container[str], traffic: Traffic
) -> int:
    """Have the engine read what is remembered of callers with these salts, one after the other and
    while nobody waits for an answer: who comes meanwhile interrupts it, and what was read of a
    prompt till then stays read. Gives how many it read. Stops where the engine fails.

    Not before schemas can be tried: both want the machine, and whoever asks with tools waits for
    that.
    """
    read = 0
    with suppress(EngineError):
        await engine.refusal(_ANY_FORM)
    known = await asyncio.to_thread(lambda: list(beginnings.known()))
    wanted = [each for each in known if each.salt in salts and len(each) < engine.card.window]
    # The latest last: should the engine have no room for all, it forgets what it read first.
    for number, prompt in enumerate(reversed(wanted)):
        try:
            while not await _read_in_quiet(prompt, engine, f"warm-{number}", traffic):
                pass
        except PromptRefused as problem:
            log.warning("The beginning of a prompt is not read ahead: %s", problem)
            continue
        except EngineError as problem:
            log.warning("Reading known prompts ahead has stopped: %s", problem)
            break
        read += 1
    return read


async def _read_in_quiet(prompt: Prompt, engine: Engine, name: str, traffic: Traffic) -> bool:
    """Whether it was read to its end."""

    async def read() -> None:
        async with aclosing(engine.generate(prompt, _ONE_TOKEN, name)) as events:
            async for _ in events:
                pass

    await traffic.quiet()
    reading, coming = asyncio.create_task(read()), asyncio.create_task(traffic.busy())
    try:
        await asyncio.wait({reading, coming}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return False
        reading.result()
        return True
    finally:
        for task in (reading, coming):
            task.cancel()
        await asyncio.gather(reading, coming, return_exceptions=True)
