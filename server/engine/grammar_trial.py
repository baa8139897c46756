"""Tries structural tags, one after the other, where a hostile one can do no harm.

A program: `python -m senryu.server.engine.grammar_trial FOLDER VOCABULARY`, with the model's folder
and the size of its vocabulary. It says `null` when it is ready; after that each line of input is a
structural tag, and the line of output for it is `null` when it can be compiled, or a JSON text: why
it cannot, as the end of a sentence.

Two processes. The first loads the tokenizer, which takes seconds; the second is forked off it,
which takes milliseconds, and tries the tags. It has a second of CPU time for each, after which the
kernel ends it in the middle of native code, and the first one answers and forks anew. Both end when
what they read from does: they cannot outlive the server.
"""

import json
import os
import resource
import signal
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CPU_SECONDS = 1.0
_MEMORY = 2**30  # bytes that one tag may take on top of what the process has
_DEATHS: dict[int | None, str] = {
    -signal.SIGPROF: "it takes more than a second to compile; make it simpler",
    -signal.SIGSEGV: "it is nested deeper than the compiler bears; make it simpler",
}
_OTHER_DEATH = "it takes more memory to compile than it may; make it simpler"

_fork = get_context("fork")


def main(folder: str, vocabulary: int) -> None:
    import xgrammar
    from transformers import AutoTokenizer

    os.nice(10)  # the streams that are being written go first
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
    _say(None)
    trial: _Trial | None = None
    for line in sys.stdin.buffer:
        trial = trial or _Trial(known)
        try:
            verdict = trial.of(line)
        except EOFError:
            verdict, trial = trial.death(), None
        _say(verdict)


def _say(verdict: str | None) -> None:
    print(json.dumps(verdict), flush=True)


class _Trial:
    """The second process, as the first one sees it."""

    def __init__(self, known: Any) -> None:
        self._connection, theirs = _fork.Pipe()
        self._process = _fork.Process(
            target=_try_each, args=(theirs, self._connection, known), daemon=True
        )
        self._process.start()
        theirs.close()

    def of(self, tag: bytes) -> str | None:
        """Raises EOFError when the tag has ended the process."""
        try:
            self._connection.send_bytes(tag)
            verdict: str | None = self._connection.recv()
        except ConnectionError as error:
            raise EOFError from error
        return verdict

    def death(self) -> str:
        self._connection.close()
        self._process.join()
        return _DEATHS.get(self._process.exitcode, _OTHER_DEATH)


def _try_each(connection: Connection, other_end: Connection, known: Any) -> None:
    other_end.close()  # or this process would keep its own input open
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + _MEMORY, has + _MEMORY))
    while True:
        try:
            tag = connection.recv_bytes()
        except EOFError:
            return
        connection.send(_verdict(tag.decode(), known))


def _verdict(tag: str, known: Any) -> str | None:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(known, max_threads=1, cache_enabled=False)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        compiler.compile_structural_tag(tag)
    except Exception as error:
        return _in_short(str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _in_short(complaint: str) -> str:
    """The compiler's complaint without the time and the line of its source."""
    first = (complaint.strip() or "it says no more").splitlines()[0]
    said = first.rpartition("] ")[2].partition(": ")
    words = said[2] if said[0].startswith("/") else first
    return f"the grammar compiler does not take it ({words.strip()[:200]})"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
