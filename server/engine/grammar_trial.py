"""Tries structural tags, one after the other, where a hostile one can do no harm.

A program: `python -m senryu.server.engine.grammar_trial FOLDER VOCABULARY`, with the model's folder
and the size of its vocabulary. It says `null` when it is ready; after that each line of input is a
structural tag, and the line of output for it is `null` when answers can be held to it, or a JSON
text: why they cannot, as the end of a sentence; or `false`, when that did not come out because the
trial was ended by somebody else.

A tag is compiled, and then a few answers are begun at random: there are grammars that compile at
once and hold up every token, and such as no answer fits.

Two processes. The first loads the tokenizer, which takes seconds; the second is forked off it,
which takes milliseconds, and tries the tags. It has a second of CPU time for each, after which the
kernel ends it in the middle of native code, and the first one answers and forks anew. Both end when
what they read from does: they cannot outlive the server.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CPU_SECONDS = 1.0
_MEMORY = 2**30  # bytes that one tag may take on top of what the process has
_DEEPEST = 76  # vLLM takes 80, and a thought before the answer adds some
_WALKS = 5
_STEPS = 30
_STEP_SECONDS = 0.005
_DEATHS: dict[int | None, str] = {
    -signal.SIGPROF: "it takes more than a second to compile; make it simpler",
    -signal.SIGSEGV: "it is nested deeper than the compiler bears; make it simpler",
    -signal.SIGABRT: "it takes more memory to compile than it may; make it simpler",
}

Verdict = str | bool | None

_fork = get_context("fork")


def main(folder: str, vocabulary: int) -> None:
    os.setpgid(0, 0)  # Ctrl-C lets open requests finish, and so their trials
    import xgrammar
    from transformers import AutoTokenizer

    os.nice(10)  # the streams that are being written go first
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
    tokens = _Tokens(known)
    _say(None)
    trial: _Trial | None = None
    for line in sys.stdin.buffer:
        trial = trial or _Trial(tokens)
        try:
            verdict: Verdict = trial.of(line)
        except EOFError:
            verdict, trial = trial.death(), None
        _say(verdict)


def _say(verdict: Verdict) -> None:
    print(json.dumps(verdict), flush=True)


class _Tokens:
    """The vocabulary, and which of its tokens are nothing but signs of JSON."""

    def __init__(self, known: Any) -> None:
        import numpy

        self.known = known
        self.signs = numpy.array(
            [bool(word) and not word.strip(b'{}[]":, \n') for word in known.decoded_vocab]
        )


class _Trial:
    """The second process, as the first one sees it."""

    def __init__(self, tokens: _Tokens) -> None:
        self._connection, theirs = _fork.Pipe()
        self._process = _fork.Process(
            target=_try_each, args=(theirs, self._connection, tokens), daemon=True
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

    def death(self) -> str | bool:
        self._connection.close()
        self._process.join()
        return _DEATHS.get(self._process.exitcode, False)


def _try_each(connection: Connection, other_end: Connection, tokens: _Tokens) -> None:
    other_end.close()  # or this process would keep its own input open
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + _MEMORY, has + _MEMORY))
    while True:
        try:
            tag = connection.recv_bytes()
        except EOFError:
            return
        connection.send(_verdict(tag.decode(), tokens))


def _verdict(tag: str, tokens: _Tokens) -> str | None:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(tokens.known, max_threads=1, cache_enabled=False)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        if _depth(json.loads(tag)) > _DEEPEST:
            return "it is nested too deep"
        return _walked(compiler.compile_structural_tag(tag), tokens)
    except Exception as error:
        return _in_short(str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for every in inside for each in every]
    return depth


def _walked(compiled: Any, tokens: _Tokens) -> str | None:
    """What is wrong with a grammar is seen when answers are begun under it, the same each time."""
    import numpy
    import xgrammar

    chance = random.Random(0)  # noqa: S311
    vocabulary = tokens.known.vocab_size
    mask = xgrammar.allocate_token_bitmask(1, vocabulary)
    for _ in range(_WALKS):
        matcher = xgrammar.GrammarMatcher(compiled)
        steps, began = 0, time.process_time()
        while steps < _STEPS and not matcher.is_terminated():
            matcher.accept_string(matcher.find_jump_forward_string())
            matcher.fill_next_token_bitmask(mask)
            bits = numpy.unpackbits(mask.numpy().view(numpy.uint8)[0], bitorder="little")
            allowed = numpy.flatnonzero(bits[:vocabulary])
            if not allowed.size:
                return "no answer fits it"
            signs = allowed[tokens.signs[allowed]]
            drawn = signs if signs.size and chance.random() < 0.5 else allowed
            matcher.accept_token(int(chance.choice(drawn)))
            steps += 1
        if time.process_time() - began > steps * _STEP_SECONDS:
            return "it holds up every token that is written under it; make it simpler"
    return None


def _in_short(complaint: str) -> str:
    """The compiler's complaint without the time and the line of its source."""
    first = (complaint.strip() or "it says no more").splitlines()[0]
    said = first.rpartition("] ")[2].partition(": ")
    words = said[2] if said[0].startswith("/") else first
    return f"the grammar compiler does not take it ({words.strip()[:200]})"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
