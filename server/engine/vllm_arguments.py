"""What vLLM is started with, and why: a pure function of settings, machine and model.

GPU and CPU builds of vLLM are one engine with different arguments, and the difference is this
file. No vLLM, torch or I/O here; the figures behind the defaults are in docs/lab-notes.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senryu.server.device import Device
from senryu.server.settings import ServerSettings

from .base import Choice, EngineError

GIB = 2**30

# Builds that our tests or a measured run have passed on, as (lowest, first beyond).
TESTED = {"cpu": ((0, 32), (0, 33)), "gpu": ((0, 26), (0, 33))}


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmArguments:
    """Keyword arguments of vLLM's AsyncEngineArgs, variables for its processes, and reasons."""

    engine: Mapping[str, Any]
    environment: Mapping[str, str]
    choices: tuple[Choice, ...]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the model's own files say."""

    folder: str
    """A folder, or a hub id."""
    name: str
    """The id it is served under."""
    scheme: str
    """How its weights are stored, for example `w4a16 group 32` or `bfloat16`."""
    trained_window: int | None
    """Positions it was trained for."""
    kv_bytes_per_token: int | None
    """KV cache of one token in two-byte elements; None when its config does not tell."""
    created_at: str
    """RFC 3339 time of its making; the epoch when unknown."""


def vllm_arguments(
    settings: ServerSettings, device: Device, model: ModelFacts, *, build: str
) -> VllmArguments:
    """The arguments for this machine. `build` names the vLLM that is installed.

    Raises EngineError where we know that vLLM would not say it, or not in time.
    """
    on_cpu = device.kind == "cpu"
    engine: dict[str, Any] = {
        "model": model.folder,
        "served_model_name": model.name,
        "enable_prefix_caching": True,
        # Interactive work goes before batches; with equal priorities it is first come first served.
        "scheduling_policy": "priority",
        "enforce_eager": not _compiles(settings, on_cpu),
        "disable_log_stats": True,
    }
    environment: dict[str, str] = {}
    choices = [
        Choice("device", device.summary, device.reason),
        Choice("engine", build, f"the build for a {device.kind.upper()}"),
        Choice("model", model.name, model.folder),
        Choice("weights", model.scheme, "as the model's folder says"),
    ]
    if settings.max_streams:
        engine["max_num_seqs"] = settings.max_streams
    choices.append(_dtype(settings, engine, model, on_cpu))
    choices.append(_kv_memory(settings, engine, device, on_cpu))
    choices.append(_window(settings, engine, model))
    if block := settings.block_size or (32 if on_cpu else None):
        engine["block_size"] = block
    if on_cpu:
        choices.append(_threads(settings, environment, device))
    return VllmArguments(
        engine=engine,
        environment=environment,
        choices=tuple(choices),
        created_at=model.created_at,
    )


def _compiles(settings: ServerSettings, on_cpu: bool) -> bool:
    return not on_cpu if settings.compile is None else settings.compile


def _dtype(
    settings: ServerSettings, engine: dict[str, Any], model: ModelFacts, on_cpu: bool
) -> Choice:
    if settings.dtype != "auto":
        if on_cpu and settings.dtype == "float32" and "w4a16" in model.scheme:
            # It loads, and then dies on the first request.
            raise EngineError(
                "dtype: vLLM's 4-bit kernel on a CPU has no float32; use bfloat16 or float16"
            )
        engine["dtype"] = settings.dtype
        return Choice("activations", settings.dtype, "the dtype setting")
    if not on_cpu:
        engine["dtype"] = "auto"
        return Choice("activations", "the model's own", "its weights were trained for it")
    engine["dtype"] = "bfloat16"
    return Choice("activations", "bfloat16", "fastest of the types that 4-bit kernels take")


def _kv_memory(
    settings: ServerSettings, engine: dict[str, Any], device: Device, on_cpu: bool
) -> Choice:
    if settings.kv_memory_gib is not None:
        engine["kv_cache_memory_bytes"] = int(settings.kv_memory_gib * GIB)
        return Choice("KV memory", f"{settings.kv_memory_gib:g} GiB", "the kv_memory_gib setting")
    if on_cpu:
        size = max(GIB // 2, min(4 * GIB, device.memory // 12))
        engine["kv_cache_memory_bytes"] = size
        return Choice("KV memory", f"{size / GIB:.1f} GiB", "a twelfth of memory, 4 GiB at most")
    engine["gpu_memory_utilization"] = 0.9
    return Choice("KV memory", "the rest of 90 % of the GPU", "what the weights leave free")


def _window(settings: ServerSettings, engine: dict[str, Any], model: ModelFacts) -> Choice:
    if settings.window is not None:
        engine["max_model_len"] = settings.window
        return Choice("window", f"{settings.window:,} tokens", "the window setting")
    memory = engine.get("kv_cache_memory_bytes")
    if model.trained_window is None or model.kv_bytes_per_token is None or memory is None:
        engine["max_model_len"] = -1  # vLLM: as long as the KV memory holds it once
        return Choice("window", "the model's own", "as far as the KV memory holds it once")
    fits = memory // model.kv_bytes_per_token
    window = min(model.trained_window, fits)
    engine["max_model_len"] = window
    if window < model.trained_window:
        why = f"the model's own is {model.trained_window:,}, but the KV memory holds no more"
    else:
        why = f"the model's own; the KV memory holds {fits / window:.0f} of them"
    return Choice("window", f"{window:,} tokens", why)


def _threads(settings: ServerSettings, environment: dict[str, str], device: Device) -> Choice:
    cores = device.cores
    threads = settings.threads or cores
    environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}" if threads > 1 else "0"
    return Choice("threads", str(threads), "the threads setting" if settings.threads else "all")
