"""Set-up: makes `.venv` with the build of the engine that fits this machine.

In:  the locks in locks/, pyproject.toml, the machine (`device.py`), and what pip is configured
     with here. Out: `.venv` with exactly the locked packages and senryu itself, editable, and
     `.types/` for type checkers. Its last act is to write what it did into `.venv/senryu.json`,
     so a second run is done in a moment, and a `.venv` that was interrupted is known as such
     and made anew (from uv's cache, so that costs seconds).

It refuses to know anything that has to be installed first: it is run from the repository root
on a bare CPython as `python3 -m server.install [--dev]`. There `server` is importable because
`-m` puts the root on sys.path, and importing it is light. Nothing else may import it that way.

What older Pythons choke on stays out of this file (no `match`, no walrus), so that 3.6 to 3.10
get as far as the sentence that refuses them. Why no lock names a registry, and why uv has to be
told what pip knows: docs/decisions/0002-locks-without-hosts.md.
"""

import sys

if sys.version_info < (3, 11) or sys.version_info >= (3, 14):  # before anything newer is touched
    import subprocess

    def _starts(name: str) -> bool:
        """Whether it is there and not only a stand-in that starts nothing."""
        try:
            return subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0
        except OSError:
            return False

    _found = [name for name in ("python3.11", "python3.12", "python3.13") if _starts(name)]
    sys.exit(
        "senryu needs CPython 3.11, 3.12 or 3.13, and this is {}.{}: {}".format(
            *sys.version_info[:2],
            f"run the same command again with PYTHON={_found[0]}."
            if _found
            else "install one of them and name it, as in PYTHON=python3.12.",
        )
    )

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from .device import Device, Kind, detect, refusal
from .install_plan import (
    Stamp,
    core_files,
    count_lines,
    failure,
    local_folders,
    read_pip_config,
    todo,
    torch_source,
    uv_environment,
)

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("server", "distill", "quant", "benches")
VENV = ".venv"
STAMP = "senryu.json"  # inside VENV

# What `.venv` takes once made, with room for the downloads that are unpacked beside it.
NEEDED_BYTES: dict[Kind, int] = {"cpu": 4 * 2**30, "gpu": 14 * 2**30}


class SetupError(Exception):
    """One sentence for the user: what happened, and what to do."""


# --- looking -----------------------------------------------------------------------------------


def digest(root: Path, names: Iterable[str]) -> str:
    """One digest of these files."""
    total = hashlib.sha256()
    for name in names:
        total.update(hashlib.sha256((root / name).read_bytes()).digest())
    return total.hexdigest()


def read_stamp(venv: Path) -> Stamp | None:
    """The record in `.venv`; None when there is none, or its Python no longer starts."""
    try:
        stamp = Stamp(**json.loads((venv / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    asked = [str(venv / "bin" / "python"), "-I", "-S", "-c", "import sys; print(sys.version_info)"]
    try:
        subprocess.run(asked, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return stamp


def write_stamp(venv: Path, stamp: Stamp) -> None:
    """Whole or not at all: the record is renamed into its place."""
    fresh = venv / (STAMP + ".new")
    fresh.write_text(json.dumps(asdict(stamp), indent=1) + "\n", encoding="utf-8")
    fresh.replace(venv / STAMP)


# --- doing -------------------------------------------------------------------------------------


class Terminal:
    """Short progress: one line a step, with its time; on a terminal the line is alive."""

    def __init__(self, steps: int, lock: int) -> None:
        self.steps, self.step, self.live = steps, 0, sys.stdout.isatty()
        self.shown = ""
        self.lock = lock  # inherited by each command: see `alone`

    def run(self, title: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Run one command under the next number. Raises CalledProcessError with its output."""
        self.step += 1
        head, begun = f"  [{self.step}/{self.steps}] {title}", time.monotonic()
        output: list[str] = []
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(self.lock,),
        ) as child:
            assert child.stdout is not None
            reader = threading.Thread(target=output.extend, args=(child.stdout,), daemon=True)
            reader.start()
            try:
                self._watch(child, head, begun, output)
            except BaseException:
                child.terminate()
                raise
            finally:
                reader.join()
        if self.live:
            print("\r\x1b[K", end="")
        if child.returncode != 0:
            raise subprocess.CalledProcessError(child.returncode, command, "".join(output))
        print(f"{head} ({time.monotonic() - begun:.0f} s)", flush=True)

    def _watch(
        self, child: subprocess.Popen[str], head: str, begun: float, output: list[str]
    ) -> None:
        told = begun
        while child.poll() is None:
            time.sleep(0.05)
            now = time.monotonic()
            if self.live:
                self._redraw(head, int(now - begun), output)
            elif now - told > 60:  # a log gets a sign of life a minute
                told = now
                print(f"{head} ... {int(now - begun)} s so far", flush=True)

    def again(self) -> None:
        """The next command repeats the step that failed."""
        self.step -= 1

    def skip(self, title: str) -> None:
        """A step that needs no command."""
        self.step += 1
        print(f"  [{self.step}/{self.steps}] {title}", flush=True)

    def _redraw(self, head: str, seconds: int, output: list[str]) -> None:
        doing = output[-1].strip() if output else ""
        line = f"{head} ... {seconds} s  {doing}"[: shutil.get_terminal_size().columns - 1]
        if line != self.shown:
            self.shown = line
            print(f"\r\x1b[K{line}", end="", flush=True)


class Setup:
    """The steps; each leaves `.venv` a little more complete."""

    def __init__(self, root: Path, build: Kind, terminal: Terminal) -> None:
        self.root, self.build, self.terminal = root, build, terminal
        self.venv = root / VENV
        self.python = str(self.venv / "bin" / "python")
        self.uv = str(self.venv / "bin" / "uv")
        self.environment = dict(os.environ)
        # Whatever environment happens to be active is not the one we are making.
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME"):
            self.environment.pop(name, None)

    def make_venv(self) -> None:
        """A fresh `.venv`, and uv in it."""
        for module in ("venv", "ensurepip"):
            if importlib.util.find_spec(module) is None:
                version = "{}.{}".format(*sys.version_info)
                raise SetupError(
                    f"This Python lacks the module {module}, which makes environments: install it "
                    f"(on Debian or Ubuntu: apt install python{version}-venv), then run this again."
                )
        make = [sys.executable, "-m", "venv", "--clear", str(self.venv)]
        kept = self._uv_program()
        self._step(f"a fresh {VENV}", make)
        if kept:
            Path(self.uv).write_bytes(kept)
            Path(self.uv).chmod(0o755)

    def _uv_program(self) -> bytes:
        """uv itself out of an earlier `.venv`, so that making one anew needs no network."""
        lock = (self.root / "locks" / "uv.txt").read_text(encoding="utf-8")
        try:
            said = subprocess.run(
                [self.uv, "--version"], capture_output=True, text=True, check=True, timeout=60
            )
            pinned = f"\nuv=={said.stdout.split()[1]} " in lock
            return Path(self.uv).read_bytes() if pinned else b""
        except (OSError, IndexError, subprocess.SubprocessError):
            return b""

    def install_uv(self) -> None:
        """The pinned uv, by pip: from then on uv installs everything."""
        if self._uv_program():
            self.terminal.skip("uv, the installer: kept")
            return
        lock = str(self.root / "locks" / "uv.txt")
        command = [self.python, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "-r", lock]
        try:
            self._step("uv, the installer", command)
        except SetupError:
            elsewhere = shutil.which("uv", path=self.environment.get("PATH"))
            if elsewhere is None:
                raise
            self.terminal.again()
            self.uv = elsewhere
            self.terminal.skip(f"uv, the installer: {elsewhere} instead, pip could not get it")

    def learn_from_pip(self) -> None:
        """uv does not read pip's configuration: tell it where pip was told to look."""
        listing = subprocess.run(
            [self.python, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )
        pip = read_pip_config(listing.stdout)
        self.environment.update(uv_environment(pip, self.environment))

    def install_torch(self) -> None:
        """torch for the CPU, before the rest: it alone may come from another index."""
        lock = "locks/torch-cpu.txt"
        pin = (self.root / lock).read_text(encoding="utf-8").split("torch==")[-1].strip()
        folders = local_folders(self.environment.get("UV_FIND_LINKS", ""))
        wheels = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
        source = torch_source(
            wheels,
            pin,
            "cp{}{}".format(*sys.version_info),
            platform.machine(),
            self.environment.get("UV_TORCH_BACKEND"),
        )
        backend = ["--torch-backend", source.backend] if source.backend else []
        self._uv(f"torch {pin}, {source.reason}", [*backend, "--no-deps", "-r", lock])

    def install_lock(self, name: str, what: str) -> None:
        """Exactly the lock: it holds everything, so nothing is resolved and nothing is added."""
        lock = f"locks/{name}.txt"
        lines = (self.root / lock).read_text(encoding="utf-8").splitlines()
        names = {line.partition("==")[0] for line in lines if line[:1].isalpha()}
        self._uv(
            f"{what}: {len(names)} packages of {lock}",
            ["--no-deps", "--require-hashes", "-r", lock],
        )

    def install_project(self) -> None:
        """senryu itself, editable: built by the setuptools of the lock, so without a network."""
        self._uv("senryu itself", ["--no-deps", "--no-build-isolation", "--editable", "."])

    def _uv(self, title: str, arguments: list[str]) -> None:
        """Install; if that fails, once more from uv's cache alone: the network may be away."""
        command = [self.uv, "pip", "install", "--python", self.python]
        try:
            self._step(title, [*command, *arguments])
        except SetupError:
            self.terminal.again()
            try:
                self._step(f"{title}, offline", [*command, "--offline", *arguments])
            except SetupError:
                pass
            else:
                return
            raise

    def _step(self, title: str, command: list[str]) -> None:
        try:
            self.terminal.run(title, command, self.environment)
        except subprocess.CalledProcessError as error:
            raise SetupError(failure(title, str(error.output))) from None
        except OSError as error:
            raise SetupError(f"{title}: {command[0]} did not start ({error.strerror}).") from None


def link_types(root: Path) -> None:
    """`.types/senryu/<room>`: a view of the rooms under the names that type checkers look for."""
    view = root / ".types" / "senryu"
    view.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = view / room
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", room))


def check_disk(root: Path, build: Kind) -> None:
    """Refuse early: a full disk in the middle of an unpacking says nothing useful."""
    free, needed = shutil.disk_usage(root).free, NEEDED_BYTES[build]
    if free < needed:
        raise SetupError(
            f"Set-up needs about {needed >> 30} GiB and {root} has {free / 2**30:.1f} GiB free: "
            "free some space, or clone to a larger disk."
        )


@contextmanager
def alone(root: Path) -> Iterator[int]:
    """One set-up at a time in one clone; the lock goes with the process, however that ends.

    The commands that it starts inherit the lock: if it is killed and one of them lives on, the
    next set-up waits until that one has stopped writing too.
    """
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is at work in this clone: waiting for it.", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def set_up(root: Path, device: Device, dev: bool, lock: int) -> None:
    """Bring `.venv` to what is wanted; silent and quick when it is there."""
    python = "{}.{}".format(*sys.version_info)
    wanted = Stamp(
        done=True,
        build=device.kind,
        python=python,
        core=digest(root, core_files(device.kind)),
        dev=digest(root, [*core_files(device.kind), "locks/dev.txt"]) if dev else "",
    )
    link_types(root)
    venv = root / VENV
    stamp = read_stamp(venv)
    steps = todo(stamp, wanted)
    if not steps:
        return
    check_disk(root, device.kind)
    print(f"Setting up senryu: Python {python}, {device.kind.upper()} build of vLLM.")
    print(f"  {device.summary} ({device.reason})", flush=True)
    if stamp is None and venv.exists():
        print(f"  {VENV} is unfinished or broken and is made anew.", flush=True)
    begun = time.monotonic()
    run_steps(
        Setup(root, device.kind, Terminal(count_lines(steps, device.kind), lock)), steps, wanted
    )
    kept = stamp.dev if stamp is not None and "core" not in steps else ""
    write_stamp(venv, replace(wanted, dev=wanted.dev or kept))
    print(f"Ready in {time.monotonic() - begun:.0f} s.", flush=True)


def run_steps(setup: Setup, steps: list[str], wanted: Stamp) -> None:
    """Do them in order, with the record saying `unfinished` all the while."""
    if "venv" in steps:
        setup.make_venv()
    write_stamp(setup.venv, replace(wanted, done=False))
    setup.learn_from_pip()
    if "core" in steps:
        setup.install_uv()
        if setup.build == "cpu":
            setup.install_torch()
        setup.install_lock(setup.build, "the engine")
        setup.install_project()
    if "dev" in steps:
        setup.install_lock("dev", "tools for tests and checks")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m server.install", description="Set up .venv.")
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    options = parser.parse_args(arguments)
    try:
        device = detect()
        why_not = refusal(sys.platform, platform.machine(), platform.libc_ver()[1], device)
        if why_not is None and platform.python_implementation() != "CPython":
            why_not = f"senryu needs CPython and this is {platform.python_implementation()}."
        if why_not is not None:
            raise SetupError(why_not)
        with alone(ROOT) as lock:
            set_up(ROOT, device, options.dev, lock)
    except (SetupError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Set-up stopped: {error}. Put that right and run it again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it starts over cleanly.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
