"""One judge for the whole run, so that its tally is that of all the fuzzers together."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop
from fuzzing import TIMES, Judge


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        judge = Judge(runner)
        yield judge
    if TIMES > 1:
        print(f"\n{sum(judge.sent.values())} requests: {dict(sorted(judge.sent.items()))}")
