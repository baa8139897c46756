"""Trains a tiny student twice: once in peace, once in processes that are killed again and again.

Run by test_train.py in a process of its own: it imports once and forks a process for each run.
Its last line is JSON: the digest of the weights of both, and how many processes were killed.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from lessons import Recorder, short, some, tiny_student

from senryu.distill.train import train

RECIPE = short(tokens=6000, checkpoint_steps=4)


def child(folder: Path) -> int:
    """The number of a new process that trains, from where it was left, to the end."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        model = tiny_student()
        train(model, some(), RECIPE, folder, progress=Recorder())
        digest = hashlib.sha256()
        for weight in model.parameters():
            digest.update(weight.detach().numpy().tobytes())
        (folder / "digest").write_text(digest.hexdigest())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(folder: Path) -> None:
    # Once here, so that what it imports is there in every process that is forked.
    train(tiny_student(), some(), short(tokens=1), folder / "warm", progress=Recorder())
    began = time.monotonic()
    _, status = os.waitpid(child(folder / "whole"), 0)
    assert status == 0
    whole = time.monotonic() - began
    chance = random.Random()
    kills = 0
    waits = []
    for _ in range(5):
        pid = child(folder / "killed")
        waits.append(chance.uniform(0.05, 0.4) * whole)
        time.sleep(waits[-1])
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    _, status = os.waitpid(child(folder / "killed"), 0)
    assert status == 0
    told = {name: (folder / name / "digest").read_text() for name in ("whole", "killed")}
    print(json.dumps({**told, "kills": kills, "waits": waits, "seconds": whole}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
