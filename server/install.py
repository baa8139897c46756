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
    import shutil

    _found = [name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)]
    sys.exit(
        "senryu needs CPython 3.11, 3.12 or 3.13, and this is {}.{}: ".format(*sys.version_info)
        + "run the same command again with PYTHON={}.".format((_found or ["python3.12"])[0])
    )

# ruff: noqa: E402
import argparse
import ast
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
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .device import Device, Kind, detect

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("server", "distill", "quant", "benches")
VENV = ".venv"
STAMP = "senryu.json"  # inside VENV

# What `.venv` takes once made, with room for the downloads that are unpacked beside it.
NEEDED_BYTES: dict[Kind, int] = {"cpu": 4 * 2**30, "gpu": 14 * 2**30}
OLDEST_GLIBC = (2, 28)  # the wheels of torch and vLLM are built against it

# pip's setting -> uv's variable for the same thing, and what separates several values there.
PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}


class SetupError(Exception):
    """One sentence for the user: what happened, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What `.venv` holds, as its last line of work records it."""

    done: bool
    """False from the first change until the last: such a `.venv` is made anew."""
    build: str
    python: str
    core: str
    """Digest of everything that the engine and the project were installed from."""
    dev: str
    """The same for the development tools; empty without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSource:
    """Where the CPU build of torch comes from."""

    backend: str | None
    """For uv's --torch-backend; None: from the folder that pip and uv are told to look in."""
    reason: str


# --- deciding: pure functions ------------------------------------------------------------------


def read_pip_config(listing: str) -> dict[str, str]:
    """The settings we pass on, from `pip config list`; a stronger source wins, as in pip.

    Its lines are `global.find-links='/wheels'`, `install.…='…'`, `:env:.cert='…'`.
    """
    rank = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, equals, quoted = line.partition("=")
        section, _, name = key.rpartition(".")
        if not equals or name not in PIP_TO_UV or section not in rank:
            continue
        if name not in found or rank[section] >= found[name][0]:
            found[name] = (rank[section], str(ast.literal_eval(quoted.strip())))
    return {name: value for name, (_, value) in found.items()}


def uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell uv what pip was told; one that is set already is left alone."""
    told = {}
    for name, value in pip.items():
        variable, separator = PIP_TO_UV[name]
        if not environment.get(variable) and value.split():
            told[variable] = separator.join(value.split())
    # pip takes the best version over all its indexes; uv stops at the first that has the name.
    if told.get("UV_INDEX") and not environment.get("UV_INDEX_STRATEGY"):
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return told


def torch_source(
    wheels: Iterable[str], version: str, python: str, machine: str, chosen: str | None = None
) -> TorchSource:
    """A find-links folder that holds a torch that fits is used; else uv asks PyTorch's CPU index.

    `wheels` are file names, `version` like 2.13.0+cpu, `python` like cp311. `chosen` is the
    user's own UV_TORCH_BACKEND, which uv reads by itself.
    """
    if chosen:
        return TorchSource(backend=None, reason=f"UV_TORCH_BACKEND={chosen}")
    start, end = f"torch-{version}-{python}-", f"_{machine}.whl"
    for wheel in wheels:
        if unquote(wheel).startswith(start) and wheel.endswith(end):
            return TorchSource(backend=None, reason="from the find-links folder")
    return TorchSource(backend="cpu", reason="from PyTorch's CPU index")


def local_folders(find_links: str) -> list[Path]:
    """Those of uv's find-links that are folders here, as a path or a file:// address."""
    folders = []
    for link in find_links.split(","):
        address = urlsplit(link.strip())
        if address.scheme in ("", "file") and address.path:
            folders.append(Path(unquote(address.path)))
    return folders


def refusal(system: str, machine: str, glibc: str, device: Device) -> str | None:
    """Why nothing can be installed on this machine, or None."""
    if system != "linux":
        return (
            f"senryu runs on Linux and this is {system}: run it in a Linux container or virtual "
            "machine."
        )
    if machine not in ("x86_64", "aarch64"):
        return (
            f"vLLM is built for x86-64 and aarch64 processors and this one is {machine}: "
            "use another machine."
        )
    numbers = tuple(int(part) for part in glibc.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_GLIBC:
        had = f"glibc {glibc}" if glibc else "another C library"
        return (
            f"torch and vLLM need glibc 2.28 or newer and this system has {had}: use a newer "
            "Linux, such as Debian 11 or Ubuntu 22.04."
        )
    if device.kind == "cpu" and machine == "x86_64" and "avx2" not in device.instruction_sets:
        return (
            f"The CPU build of vLLM needs a processor with AVX2 and {device.name} has none: "
            "use a machine from 2014 or later, or one with an NVIDIA GPU."
        )
    return None


def todo(stamp: Stamp | None, wanted: Stamp) -> list[str]:
    """The steps that lead from what `.venv` holds to what is wanted; none when it is there.

    `wanted.dev` is empty when the development tools were not asked for; tools that are there
    already then stay, but count as missing once the engine beneath them has changed.
    """
    if (
        stamp is None
        or not stamp.done
        or (stamp.build, stamp.python)
        != (
            wanted.build,
            wanted.python,
        )
    ):
        steps = ["venv", "core"]
    elif stamp.core != wanted.core:
        steps = ["core"]
    else:
        steps = []
    if wanted.dev and (steps or stamp is None or stamp.dev != wanted.dev):
        steps.append("dev")
    return steps


# --- looking -----------------------------------------------------------------------------------


def core_files(build: Kind) -> list[str]:
    """What the installed engine and project depend on, relative to the root."""
    torch = ["locks/torch-cpu.txt"] if build == "cpu" else []
    return ["locks/uv.txt", *torch, f"locks/{build}.txt", "pyproject.toml", "server/install.py"]


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

    def __init__(self, steps: int) -> None:
        self.steps, self.step, self.live = steps, 0, sys.stdout.isatty()

    def run(self, title: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Run one command under the next number. Raises CalledProcessError with its output."""
        self.step += 1
        head, begun = f"  [{self.step}/{self.steps}] {title}", time.monotonic()
        output: list[str] = []
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert child.stdout is not None
        reader = threading.Thread(target=output.extend, args=(child.stdout,), daemon=True)
        reader.start()
        told = begun
        try:
            while child.poll() is None:
                time.sleep(0.05)
                now = time.monotonic()
                if self.live:
                    self._redraw(head, int(now - begun), output)
                elif now - told > 60:  # a log gets a sign of life a minute
                    told = now
                    print(f"{head} ... {int(now - begun)} s so far", flush=True)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        reader.join()
        if self.live:
            print("\r\x1b[K", end="")
        if child.returncode != 0:
            raise subprocess.CalledProcessError(child.returncode, command, "".join(output))
        print(f"{head} ({time.monotonic() - begun:.0f} s)", flush=True)

    def again(self) -> None:
        """The next command repeats the step that failed."""
        self.step -= 1

    def _redraw(self, head: str, seconds: int, output: list[str]) -> None:
        doing = output[-1].strip() if output else ""
        line = f"{head} ... {seconds} s  {doing}"
        print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


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
        self._step(f"a fresh {VENV}", make)

    def install_uv(self) -> None:
        """The pinned uv, by pip: from then on uv installs everything."""
        lock = str(self.root / "locks" / "uv.txt")
        command = [self.python, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "-r", lock]
        self._step("uv, the installer", command)

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
        count = (self.root / lock).read_text(encoding="utf-8").count("==")
        self._uv(
            f"{what}: {count} packages of {lock}", ["--no-deps", "--require-hashes", "-r", lock]
        )

    def install_project(self) -> None:
        """senryu itself, editable: built by the setuptools of the lock, so without a network."""
        self._uv("senryu itself", ["--no-deps", "--no-build-isolation", "--editable", "."])

    def _uv(self, title: str, arguments: list[str]) -> None:
        """Install; if that fails, once more from uv's cache alone: the network may be away."""
        command = [self.uv, "pip", "install", "--python", self.python, "--no-config"]
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


def failure(title: str, output: str) -> str:
    """What a failed step tells the user: its last words, and what helps."""
    lowered = output.lower()
    if "no space left" in lowered or "disk quota" in lowered:
        advice = "The disk is full: free some space"
    elif any(word in lowered for word in ("dns error", "connect", "timed out", "resolve host")):
        advice = "The package registry could not be reached: check the network, or pip's settings"
    else:
        advice = "Its last words stand above: put that right"
    words = "\n".join("    " + line for line in output.strip().splitlines()[-12:])
    return f"{words}\n{title}: failed. {advice}, then run the same command again."


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
def alone(root: Path) -> Iterator[None]:
    """One set-up at a time in one clone; the lock goes with the process, however that ends."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is at work in this clone: waiting for it.", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up(root: Path, device: Device, dev: bool) -> None:
    """Bring `.venv` to what is wanted; silent and quick when it is there."""
    python = platform.python_version()
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
    run_steps(Setup(root, device.kind, Terminal(count(steps, device.kind))), steps, wanted)
    kept = stamp.dev if stamp is not None and "core" not in steps else ""
    write_stamp(venv, Stamp(**{**asdict(wanted), "dev": wanted.dev or kept}))
    print(f"Ready in {time.monotonic() - begun:.0f} s.", flush=True)


def count(steps: list[str], build: Kind) -> int:
    """How many lines of progress these steps print."""
    lines = {"venv": 1, "core": 4 if build == "cpu" else 3, "dev": 1}
    return sum(lines[step] for step in steps)


def run_steps(setup: Setup, steps: list[str], wanted: Stamp) -> None:
    """Do them in order, with the record saying `unfinished` all the while."""
    if "venv" in steps:
        setup.make_venv()
    write_stamp(setup.venv, Stamp(**{**asdict(wanted), "done": False}))
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
        with alone(ROOT):
            set_up(ROOT, device, options.dev)
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
