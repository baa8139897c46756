"""The other end of `speaker.py`: a model that is served in a child process, as an object.

Comes in: a model folder, questions, numbers of streams. Goes out: answers and tokens a second. When
it is closed, or this process dies, the child ends and gives its memory back. It refuses to know
what the figures are for.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senryu.quant.errors import QuantizeError

from .recipe import CompareRecipe
from .spoken import Call, Said

_PATIENCE = 30.0
"""Seconds that an engine gets to end by itself."""
_LONGEST = 7200.0
"""Seconds that one order may take: a slow machine that answers all questions needs many."""
_WITHOUT = "--no-speech --no-speed"


@dataclass(slots=True, eq=False)
class Served:
    """An open model."""

    folder: Path
    load_seconds: float
    _child: subprocess.Popen[str]
    _heard: Any

    def say(self, recipe: CompareRecipe, source: Path | None) -> dict[str, Said]:
        """The answers to the questions that the source holds, by their keys."""
        told = self._ask(
            {
                "do": "say",
                "source": source and str(source.absolute()),
                "turns": recipe.turns,
                "structured": recipe.structured,
                "max_tokens": recipe.max_tokens,
            }
        )
        return {key: _said(each) for key, each in told["said"].items()}

    def rate(self, streams: int, tokens: int) -> float:
        """Tokens a second of one round."""
        return float(self._ask({"do": "time", "streams": streams, "tokens": tokens})["rate"])

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        return _answer(self.folder, self._child, self._heard, order)


@contextlib.contextmanager
def serve(
    folder: Path, *, kv_memory_gib: float, streams: int, advice: str = _WITHOUT
) -> Iterator[Served]:
    """Open the folder as `senryu serve` would. Raises QuantizeError, with `advice` where it does
    not open."""
    heard, told = os.pipe()
    begun = time.monotonic()
    command = [sys.executable, "-m", "senryu.quant.compare.speaker", str(told)]
    with os.fdopen(heard) as lines:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                pass_fds=(told,),
                start_new_session=True,  # Ctrl-C is for us, and we end it
            )
        finally:
            os.close(told)
        try:
            order = {
                "folder": str(folder.absolute()),
                "kv_memory_gib": kv_memory_gib,
                "streams": streams,
            }
            _answer(folder, child, lines, order, advice)
            yield Served(folder, time.monotonic() - begun, child, lines)
        except BaseException:  # Ctrl-C too: the child ends at once when nobody gives it orders
            assert child.stdin, "it was opened with a pipe"
            with contextlib.suppress(OSError):
                child.stdin.close()
            raise
        finally:
            _end(child)


def _answer(
    folder: Path,
    child: subprocess.Popen[str],
    heard: Any,
    order: Mapping[str, Any],
    advice: str = _WITHOUT,
) -> dict[str, Any]:
    assert child.stdin, "it was opened with a pipe"
    line = ""
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        if not select.select([heard], [], [], _LONGEST)[0]:
            raise QuantizeError(
                f"The engine that serves {folder} has not answered for {_LONGEST / 60:.0f} "
                f"minutes: compare without it, with {advice}."
            )
        line = heard.readline()
    if not line:
        raise QuantizeError(
            f"The engine that served {folder} ended by itself; the lines above say why. Compare "
            f"without it: {advice}."
        )
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        raise QuantizeError(
            f"{folder} cannot be served here ({told['error']}): compare again with {advice}."
        )
    return told


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin, "it was opened with a pipe"
    with contextlib.suppress(OSError, ValueError):
        child.stdin.write('{"do": "stop"}\n')
        child.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE)
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _said(told: Mapping[str, Any]) -> Said:
    calls = tuple(Call(name=each["name"], input=each["input"]) for each in told["calls"])
    return Said(**{**told, "calls": calls})
