"""Trains a tiny student twice: once in peace, once in processes that are killed again and again.

Run by test_train.py in a process of its own: it imports once and forks a process for each run.
Processes are killed when `curve.jsonl` tells of a step that chance has chosen, and at each point in
the writing of a checkpoint. None can run away: each waits for its end where it is due. The last
line is JSON: the digest of the weights of both, how many processes were killed, and when.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lessons import Recorder, short, some, tiny_student

from senryu.distill import checkpoint
from senryu.distill.curve import Point, read
from senryu.distill.train import train

SEED = int(os.environ.get("KILLED_TRAINING_SEED", "17"))
RECIPE = short(tokens=6000, checkpoint_steps=4)
FLUSHES = 4
"""In the writing of a checkpoint: of its two files, of their folder, and of the one above."""


def child(folder: Path, *, last: int = 10**9, flush: int = 0) -> int:
    """The number of a new process that trains, from where it was left, to the end; or waits after
    the step `last`, or before the so-manieth flush of a checkpoint."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if flush:
            checkpoint._flush = waiting(checkpoint._flush, folder / "waits", flush)

        def wait(point: Point) -> None:
            if point.step >= last:
                time.sleep(600)

        model = tiny_student()
        train(model, some(), RECIPE, folder, progress=Recorder(), on_step=wait)
        digest = hashlib.sha256()
        for weight in model.parameters():
            digest.update(weight.detach().numpy().tobytes())
        (folder / "digest").write_text(digest.hexdigest())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def waiting(flush: Callable[[Path], None], sign: Path, number: int) -> Any:
    calls = 0

    def flushed(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            sign.touch()
            time.sleep(600)
        flush(path)

    return flushed


def killed(pid: int, due: Callable[[], bool]) -> int:
    """Kill a process when it is due; 1 when that is what ended it."""
    while not due():
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return 0  # it came to an end by itself
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return int(os.WIFSIGNALED(status))


def moments(steps: int) -> list[tuple[str, int]]:
    """When to kill: five steps, in order, and between them each flush once, shuffled. What is
    chosen leaves room for what each process goes beyond."""
    chance = random.Random(SEED)
    at = [("step", each) for each in sorted(chance.sample(range(2, steps - 40), 5))]
    for flush in chance.sample(range(1, FLUSHES + 1), FLUSHES):
        at.insert(chance.randint(0, len(at)), ("flush", flush))
    return at


def done(folder: Path) -> int:
    points = read(folder)
    return points[-1].step if points else 0


def main(folder: Path) -> None:
    # Once here, so that what it imports is there in every process that is forked.
    train(tiny_student(), some(), short(tokens=1), folder / "warm", progress=Recorder())
    _, status = os.waitpid(child(folder / "whole"), 0)
    assert status == 0
    planned = moments(done(folder / "whole"))
    print(json.dumps({"seed": SEED, "moments": planned}), flush=True)
    victim, sign = folder / "killed", folder / "killed" / "waits"
    kills = 0
    for what, number in planned:
        if what == "flush":
            sign.unlink(missing_ok=True)
            kills += killed(child(victim, flush=number), sign.exists)
        else:
            at = max(number, done(victim) + 1)
            kills += killed(child(victim, last=at + 3), lambda at=at: done(victim) >= at)
    _, status = os.waitpid(child(victim), 0)
    assert status == 0
    digests = {name: (folder / name / "digest").read_text() for name in ("whole", "killed")}
    print(json.dumps({**digests, "seed": SEED, "moments": planned, "kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
