"""Ends vLLM's processes when the server dies, by whatever signal.

vLLM starts children that start children; a server killed with -9 would leave them behind,
holding the model and the port's memory. vLLM calls `hold` in each of its processes (the entry
point `vllm.general_plugins` in pyproject.toml); a thread there waits for the server's end.
"""

import os
import select
import signal
import threading

VARIABLE = "SENRYU_SERVER_PID"
NAME = "senryu"  # of the entry point


def announce() -> None:
    """Called by the server before it opens vLLM: its children are to live as long as it does."""
    os.environ[VARIABLE] = str(os.getpid())
    chosen = os.environ.get("VLLM_PLUGINS")  # a list of the only plug-ins to load
    if chosen is not None and NAME not in chosen.split(","):
        os.environ["VLLM_PLUGINS"] = f"{chosen},{NAME}"


def hold() -> None:
    """Called by vLLM in each process. Without an announcement, or in the server itself, nothing
    happens: this distribution may be installed beside a vLLM that others start."""
    server = int(os.environ.get(VARIABLE, "0"))
    if server in (0, os.getpid()):
        return
    try:
        handle = os.pidfd_open(server)
    except ProcessLookupError:
        _die()
    threading.Thread(target=_wait, args=(handle,), name="senryu-lifeline", daemon=True).start()


def _wait(handle: int) -> None:
    poller = select.poll()
    poller.register(handle, select.POLLIN)  # readable once the process has ended
    poller.poll()
    _die()


def _die() -> None:
    # Not sys.exit: there is nobody left to tidy up for, and vLLM handles gentler signals.
    os.kill(os.getpid(), signal.SIGKILL)
