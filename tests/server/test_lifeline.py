"""When the server dies by whatever signal, the processes that hold on to it end too.

Real processes: a server that announces itself and starts a child, which starts a grandchild. All
three hold one pipe, so its end is the proof that all three are gone.
"""

import os
import signal
import subprocess
import sys

import pytest

from senryu.server import lifeline

CHILD = """
import os, subprocess, sys, time
from senryu.server import lifeline
lifeline.hold()
if sys.argv[1] != "0":
    subprocess.Popen([sys.executable, "-c", sys.argv[2], str(int(sys.argv[1]) - 1), sys.argv[2]])
print("held", flush=True)
time.sleep(60)
"""
SERVER = """
import subprocess, sys, time
from senryu.server import lifeline
lifeline.announce()
subprocess.Popen([sys.executable, "-c", sys.argv[1], "1", sys.argv[1]])
time.sleep(60)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_children_and_grandchildren_end_with_the_server(ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, CHILD], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert [server.stdout.readline() for _ in range(2)] == ["held\n", "held\n"]
        os.kill(server.pid, ending)
        rest, _ = server.communicate(timeout=20)  # returns when nobody holds the pipe
        assert rest == ""


def test_what_the_terminal_sends_reaches_the_server_alone() -> None:
    """So that the server can let open answers finish before it ends the engine. Yet they stay one
    session, for Linux deals out the cores by session: in two, a token takes four times as long."""
    told = "print(os.getpgid(0), os.getsid(0))"
    code = f"import os; from senryu.server import lifeline; lifeline.hold(); {told}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, lifeline.VARIABLE: str(os.getpid())},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        said, _ = child.communicate(timeout=20)
        assert said.split() == [str(child.pid), str(os.getsid(0))]
        assert child.pid != os.getpgid(0)


def test_a_child_whose_server_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "from senryu.server import lifeline; lifeline.hold(); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, lifeline.VARIABLE: str(gone.pid)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("announced", [None, "self"])
def test_without_an_announcement_or_in_the_server_itself_nothing_happens(
    announced: str | None,
) -> None:
    code = (
        "import threading\n"
        "from senryu.server import lifeline\n"
        f"{'lifeline.announce()' if announced else ''}\n"
        "lifeline.hold()\n"
        "print(threading.active_count())"
    )
    bare = {name: value for name, value in os.environ.items() if name != lifeline.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, "1\n")


@pytest.mark.parametrize("left_over", ["999999999", "-5", "abc", ""])
def test_a_left_over_announcement_does_no_harm_to_a_command(left_over: str) -> None:
    """Only spawned processes hold on to a server, and only to one that is named by a number."""
    done = subprocess.run(
        [sys.executable, "-m", "senryu.server", "--version"],
        env={**os.environ, lifeline.VARIABLE: left_over},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("senryu ")
