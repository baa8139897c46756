"""Ends vLLM's processes when the server dies, by whatever signal.

vLLM starts children that start children; a server killed with -9 would leave them behind,
holding the model's memory. `hold` is called in each of them, and a thread there waits for the
server's end. Two ways lead to it, because neither is enough:

- A spawned process imports the program that it was spawned from before all else, and that is
  `server/cli.py`, which calls `hold`. This holds from the first moment on.
- vLLM calls it as a plug-in (entry point `vllm.general_plugins` in pyproject.toml), in processes
  that come from anywhere else; but only once it has shaken hands with the server.
"""

import os
import select
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from typing import NoReturn

VARIABLE = "SENRYU_SERVER_PID"
NAMES = ("senryu", "senryu-shapes")  # of our entry points: this one, and students' configs

_held = False


def announce() -> None:
    """Called by the server before it opens vLLM: its children are to live as long as it does."""
    os.environ[VARIABLE] = str(os.getpid())
    chosen = os.environ.get("VLLM_PLUGINS")  # a list of the only plug-ins to load
    if chosen is not None:
        lacking = [name for name in NAMES if name not in chosen.split(",")]
        os.environ["VLLM_PLUGINS"] = ",".join([chosen, *lacking])


def hold() -> None:
    """Live no longer than the server, and out of reach of its terminal. Without an announcement,
    in the server itself, or the second time, nothing happens."""
    global _held
    announced = os.environ.get(VARIABLE, "")
    server = int(announced) if announced.isdecimal() else 0
    if _held or server in (0, os.getpid()):
        return
    _held = True
    # Ctrl-C is sent to all of a terminal's foreground group; but open answers are to be finished,
    # and the server itself says when the engine is to end. Not a session of its own: Linux deals
    # out the cores by session, vLLM's processes wait for each other by giving way, and none gives
    # way to another session. That made a token four times as slow.
    with suppress(PermissionError):
        os.setpgid(0, 0)
    try:
        handle = os.pidfd_open(server)
    except ProcessLookupError:
        _die()  # it has ended already
    except OSError:  # Linux before 5.3 has no handles on processes
        wait = partial(_poll, server)
    else:
        wait = partial(_watch, handle)
    threading.Thread(target=wait, name="senryu-lifeline", daemon=True).start()


def _watch(handle: int) -> None:
    poller = select.poll()
    poller.register(handle, select.POLLIN)  # readable once the process has ended
    poller.poll()
    _die()


def _poll(server: int) -> None:
    while os.path.exists(f"/proc/{server}"):
        time.sleep(1)
    _die()


def _die() -> NoReturn:
    # Not sys.exit: there is nobody left to tidy up for, and vLLM handles gentler signals.
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")
