"""llama.cpp's server for benches: `llama-server` where it is installed, else the one in `llama/`.

Comes in: how many requests it shall answer together. Goes out: the command that starts it on the
embedded model's GGUF file, and its version. Packages that the second one needs are installed once,
into the cache folder, through npm as it is configured.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from senryu.quant import gguf_model
from senryu.server.manifest import cache_folder

_OWN = Path(__file__).parent / "llama"
_PACKAGES = ("package.json", "package-lock.json")
_SERVER = "server.mjs"
_NAME = "llama-server"
CONTEXT = 8192
"""Tokens that all requests may hold together, or one alone."""


class NoLlama(Exception):
    """There is no llama.cpp here. The text is one sentence."""


def llama_command(parallel: int) -> tuple[list[str], str, Literal["messages", "openai"]]:
    """What starts it, up to host and port; its version; and the API that it speaks."""
    model = str(gguf_model.find_file())
    # Each gets its share, as llama-server gives it, and never less than a short answer needs.
    each = max(CONTEXT // parallel, 1024)
    if found := shutil.which(_NAME):
        said = subprocess.run([found, "--version"], capture_output=True, text=True)
        version = (said.stderr or said.stdout).strip().partition("\n")[0]
        places = ["--ctx-size", str(each * parallel), "--parallel", str(parallel)]
        return [found, "--model", model, *places, "--jinja", "--metrics"], version, "messages"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NoLlama(
            f"{_NAME} is not installed: it is not on the PATH, nor are node and npm, with which "
            "another one could be had"
        )
    if platform.machine() != "x86_64":
        raise NoLlama(f"{_NAME} is not on the PATH, and what npm has of it is for x86-64")
    folder = _installed(npm)
    # As many threads as our engine takes: one a core.
    threads = str(len(os.sched_getaffinity(0)))
    places = ["--context", str(each), "--parallel", str(parallel), "--threads", threads]
    wanted = json.loads((_OWN / _PACKAGES[0]).read_text())["dependencies"]
    version = f"node-llama-cpp {wanted['node-llama-cpp']}"
    return [node, str(folder / _SERVER), model, *places], version, "openai"


def _installed(npm: str) -> Path:
    """The folder with the server and its packages; whole or made again, a stamp is written last."""
    lists = [(_OWN / name).read_bytes() for name in _PACKAGES]
    folder = cache_folder() / "llama" / hashlib.sha256(b"".join(lists)).hexdigest()[:16]
    stamp = folder / "whole"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in _PACKAGES:
            shutil.copy(_OWN / name, folder)
        # Not `npm ci`: it insists on the builds for every other system, 700 MB of them.
        asked = [npm, "install", "--ignore-scripts", "--omit=optional", "--no-save"]
        done = subprocess.run([*asked, "--no-audit", "--no-fund"], cwd=folder, stdout=sys.stderr)
        if done.returncode != 0:
            raise NoLlama("npm could not install llama.cpp; the lines above say why")
        stamp.touch()
    shutil.copy(_OWN / _SERVER, folder)
    return folder
