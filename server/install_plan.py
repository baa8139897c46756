"""What set-up decides, apart from what it does: pure functions over text and small records.

In:  what pip, the disk and the machine say, already read. Out: uv's settings, where torch comes
     from, which steps are left, the sentences for the user. It refuses to touch anything, so
     every decision has a table test; `install.py` does the rest, on a bare Python like this one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .device import Kind

# pip's setting -> uv's variable for the same thing, and what separates several values there.
PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}


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


def core_files(build: Kind) -> list[str]:
    """What the installed engine and project depend on, relative to the root."""
    torch = ["locks/torch-cpu.txt"] if build == "cpu" else []
    return [
        "locks/uv.txt",
        *torch,
        f"locks/{build}.txt",
        "pyproject.toml",
        "server/install.py",
        "server/install_plan.py",
    ]


def count_lines(steps: list[str], build: Kind) -> int:
    """How many lines of progress these steps print."""
    lines = {"venv": 1, "core": 4 if build == "cpu" else 3, "dev": 1}
    return sum(lines[step] for step in steps)


def failure(title: str, output: str) -> str:
    """What a failed step tells the user: its last words, and what helps."""
    lowered = output.lower()
    if "no space left" in lowered or "disk quota" in lowered:
        advice = "The disk is full: free some space"
    elif any(word in lowered for word in ("dns error", "connect", "timed out", "resolve host")):
        advice = "An index of packages could not be reached: check the network, or pip's settings"
    else:
        advice = "Its last words stand above: put that right"
    words = "\n".join("    " + line for line in output.strip().splitlines()[-12:])
    return f"{words}\n{title}: failed. {advice}, then run the same command again."
