"""What vLLM is started with, and why: a pure function of settings, machine and model.

GPU and CPU builds of vLLM are one engine with different arguments, and the difference is this
file. No vLLM, torch or I/O here; the figures behind the defaults are in docs/lab-notes.md.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senryu.server.conversation.media import MOST_MEDIA
from senryu.server.device import Device
from senryu.server.settings import ServerSettings
from senryu.server.turn.dialects.base import Dialect

from .base import Choice, EngineError
from .profiles import tuned

GIB = 2**30
LONG_PROMPT = 256
"""Tokens of one prompt that a CPU reads in a step while others wait: about a second."""

# Versions of vLLM that we start, as (lowest, first beyond). Our tests run 0.32 on a CPU. On a GPU
# 0.26 and 0.32 take these arguments, as their sources say; neither has been run there yet.
TESTED = {"cpu": ((0, 32), (0, 33)), "gpu": ((0, 26), (0, 33))}


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmArguments:
    """Keyword arguments of vLLM's AsyncEngineArgs, variables for its processes, and reasons."""

    engine: Mapping[str, Any]
    environment: Mapping[str, str]
    choices: tuple[Choice, ...]
    created_at: str
    dialect: Dialect
    tended: "Tended | None" = None
    """Where vLLM writes and never tidies up: that is left to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """How much may lie in a folder."""

    folder: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where KV may go beside the engine's own memory."""

    folder: str
    """For kept prompts, of all models."""
    weights: str
    """Tells the model apart from every other."""
    shared_memory: int
    """Bytes free of the memory that processes may share."""


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
    """Positions it was trained for; None when its config does not tell."""
    created_at: str
    """RFC 3339 time of its making; the epoch when unknown."""
    dialect: Dialect
    dialect_why: str
    """Why it speaks this one, as the end of a sentence."""


GPU_FOLDERS = "gpu-"
"""How the folders begin that vLLM's own file tier writes to."""

KEPT_FILES = "kept prompts"
"""The choice that says where prompts are kept."""

_TIERS_SINCE = (0, 32)
"""The first vLLM whose connectors and schedulers we know."""

_LEAST_OFFLOADED = GIB // 4
"""Less memory than that is not worth a tier."""

_FOR_GPUS = ("nvfp4", "mxfp4", "w4a8-fp8")
"""How schemes begin for which the CPU build has no kernel."""


def vllm_arguments(
    settings: ServerSettings,
    device: Device,
    model: ModelFacts,
    *,
    build: str,
    storage: Storage | None = None,
) -> VllmArguments:
    """The arguments for this machine. `build` names the vLLM that is installed. Without `storage`
    no prompt outlives the engine's memory.

    Raises EngineError where we know that vLLM would not say it, or not in time.
    """
    on_cpu = device.kind == "cpu"
    if on_cpu and model.scheme.startswith(_FOR_GPUS):
        raise EngineError(
            f"{model.folder} is stored as {model.scheme}, for which vLLM has no kernel on a CPU; "
            "quantize the 16-bit model that it was made of to w4a16"
        )
    engine: dict[str, Any] = {
        "model": model.folder,
        "served_model_name": model.name,
        "enable_prefix_caching": True,
        # The same in every process, for kept prompts are known again by it; and no two prompts
        # have one in common, for those of different keys must not.
        "prefix_caching_hash_algo": "sha256",
        # Interactive work goes before batches; with equal priorities it is first come first served.
        "scheduling_policy": "priority",
        "enforce_eager": not _compiles(settings, on_cpu),
        # As many images as a request may bring (intake counts them), and nothing else but text.
        "limit_mm_per_prompt": {"image": MOST_MEDIA, "video": 0, "audio": 0},
        "mm_processor_cache_gb": 1,  # in this process and in the engine's: some fifty images
        "skip_mm_profiling": on_cpu,  # nothing depends on it where the KV memory is given in bytes
        "disable_log_stats": False,  # /metrics has them
        "max_logprobs": -1,  # no bound: clients cannot ask for any, and a teacher's reader may
    }
    environment = {
        # A forked child has loaded vLLM's plug-ins already, so the lifeline would not be held
        # there; and forking a process with threads and an event loop is asking for a deadlock.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",  # no outbound requests unless asked
    }
    choices = [
        Choice("device", device.summary, device.reason),
        Choice("engine", build, f"the build for a {device.kind.upper()}"),
        Choice("model", model.name, model.folder),
        Choice("weights", model.scheme, "as the model's folder says"),
        Choice("dialect", model.dialect.name, model.dialect_why),
    ]
    if settings.max_streams:
        engine["max_num_seqs"] = settings.max_streams
    choices.append(_dtype(settings, engine, model, on_cpu))
    _kv_memory(settings, engine, device, on_cpu)
    # -1: the model's own window, or as much of it as the KV memory holds once.
    engine["max_model_len"] = settings.window or -1
    if block := settings.block_size or (32 if on_cpu else None):
        engine["block_size"] = block
    if on_cpu:
        choices.append(_threads(settings, environment, device))
        # A step that reads 2,048 tokens takes 9 seconds here, and all others wait for it. So a long
        # prompt is read a little at a time, with room beside it for the next one that comes.
        engine["long_prefill_token_threshold"] = LONG_PROMPT
        engine["max_num_batched_tokens"] = 2 * LONG_PROMPT
    choices.append(_tune(settings, engine, on_cpu))
    _fit_steps(settings, engine, model)
    tended = None
    if _newer_than(build, _TIERS_SINCE):
        engine["scheduler_cls"] = "senryu.server.engine.kv.telling.scheduler"
        if storage is not None and on_cpu and settings.kv_files_gib:
            choices.append(_keep_files(settings, engine, storage))
        elif storage is not None and not on_cpu and settings.kv_cpu_gib != 0:
            tended = _offload(settings, engine, choices, device, storage, build)
    return VllmArguments(
        engine=engine,
        environment=environment,
        choices=tuple(choices),
        created_at=model.created_at,
        dialect=model.dialect,
        tended=tended,
    )


def _tune(settings: ServerSettings, engine: dict[str, Any], on_cpu: bool) -> Choice:
    """What the profile sets; where a setting says how many streams, that holds."""
    for each in tuned(settings.profile, on_cpu=on_cpu):
        if each.name != "max_num_seqs" or not settings.max_streams:
            engine[each.name] = each.value
    if settings.profile == "balanced":
        return Choice("profile", "balanced", "some of both, the default")
    return Choice("profile", settings.profile, "the profile setting")


def _fit_steps(settings: ServerSettings, engine: dict[str, Any], model: ModelFacts) -> None:
    """vLLM wants room for a token of each stream in a step, and no piece of a prompt that is longer
    than the window."""
    if "max_num_batched_tokens" in engine:
        least = settings.max_streams or 0
        engine["max_num_batched_tokens"] = max(engine["max_num_batched_tokens"], least)
    if "long_prefill_token_threshold" in engine:
        most = settings.window or model.trained_window or LONG_PROMPT
        threshold = engine["long_prefill_token_threshold"]
        engine["long_prefill_token_threshold"] = min(threshold, most)


def _newer_than(build: str, since: tuple[int, int]) -> bool:
    found = re.search(r"(\d+)\.(\d+)", build)
    return found is not None and (int(found[1]), int(found[2])) >= since


def _keep_files(settings: ServerSettings, engine: dict[str, Any], storage: Storage) -> Choice:
    """On a CPU: files, through a connector of ours. vLLM's own tiers need a GPU."""
    engine["kv_transfer_config"] = {
        "kv_connector": "FileConnector",
        "kv_connector_module_path": "senryu.server.engine.kv.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "folder": storage.folder,
            "bytes": int(settings.kv_files_gib * GIB),
            "weights": storage.weights,
        },
    }
    return _files_choice(settings, storage)


def _offload(
    settings: ServerSettings,
    engine: dict[str, Any],
    choices: list[Choice],
    device: Device,
    storage: Storage,
    build: str,
) -> Tended | None:
    """On a GPU: vLLM's own tiers, the machine's memory and behind it files."""
    # It lies in shared memory, of which containers have little, and others want some.
    most = storage.shared_memory * 3 // 4
    if settings.kv_cpu_gib is not None:
        size, why = int(settings.kv_cpu_gib * GIB), "the kv_cpu_gib setting"
    elif most < device.memory // 8:
        size, why = most, "three quarters of the shared memory that is free"
    else:
        size, why = device.memory // 8, "an eighth of the machine's memory"
    if size > most:
        raise EngineError(
            f"kv_cpu_gib: {settings.kv_cpu_gib:g} GiB are more than three quarters of the shared "
            f"memory that is free, {storage.shared_memory / GIB:.1f} GiB; set less, or give the "
            "machine (a container: --shm-size) more"
        )
    if size < _LEAST_OFFLOADED:
        choices.append(Choice(KEPT_FILES, "none", "too little shared memory is free"))
        return None
    tiers = []
    choices.append(Choice("KV in memory", f"{size / GIB:.1f} GiB beside the GPU's", why))
    if settings.kv_files_gib:
        # vLLM tells models apart by their path alone, and what lies there may change; so may the
        # order of the bytes from one vLLM or GPU to the next, and their type with the profile.
        same = f"{storage.weights} {build} {device.name}"
        if kv := engine.get("kv_cache_dtype"):
            same += f" {kv}"
        name = hashlib.sha256(same.encode()).hexdigest()[:32]
        tiers = [{"type": "fs", "root_dir": f"{storage.folder}/{GPU_FOLDERS}{name}"}]
        choices.append(_files_choice(settings, storage))
    engine["kv_transfer_config"] = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": size,
            "secondary_tiers": tiers,
        },
    }
    if not tiers:
        return None
    return Tended(folder=storage.folder, bytes=int(settings.kv_files_gib * GIB))


def _files_choice(settings: ServerSettings, storage: Storage) -> Choice:
    return Choice(
        KEPT_FILES,
        f"up to {settings.kv_files_gib:g} GiB in {storage.folder}",
        "marked prefixes outlive the KV memory and a restart",
    )


def memory_choices(
    settings: ServerSettings, device: Device, model: ModelFacts, *, window: int, kv_tokens: int
) -> tuple[Choice, ...]:
    """What vLLM made of window and KV memory, once it is open. `kv_tokens`: how many tokens the
    KV memory holds."""
    if settings.window is not None:
        why = "the window setting"
    elif model.trained_window is not None and window < model.trained_window:
        why = f"the model's own is {model.trained_window:,}, but the KV memory holds no more"
    else:
        why = "the model's own"
    if settings.kv_memory_gib is not None:
        memory, reason = f"{settings.kv_memory_gib:g} GiB", "the kv_memory_gib setting"
    elif device.kind == "cpu":
        memory = f"{_cpu_kv_bytes(device) / GIB:.1f} GiB"
        reason = "a twelfth of the machine's memory, at least 0.5 and at most 4 GiB"
    else:
        memory, reason = "what weights leave of 90 % of the GPU", "nothing else is to run there"
    return (
        Choice("window", f"{window:,} tokens", why),
        Choice("KV memory", f"{memory}, {kv_tokens:,} tokens", reason),
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
    return Choice("activations", "bfloat16", "the embedded model's own, and 4-bit kernels take it")


def _kv_memory(
    settings: ServerSettings, engine: dict[str, Any], device: Device, on_cpu: bool
) -> None:
    if settings.kv_memory_gib is not None:
        engine["kv_cache_memory_bytes"] = int(settings.kv_memory_gib * GIB)
    elif on_cpu:
        engine["kv_cache_memory_bytes"] = _cpu_kv_bytes(device)
    else:
        engine["gpu_memory_utilization"] = 0.9


def _cpu_kv_bytes(device: Device) -> int:
    return max(GIB // 2, min(4 * GIB, device.memory // 12))


def _threads(settings: ServerSettings, environment: dict[str, str], device: Device) -> Choice:
    """One thread a core, bound to the cores that we may use: their numbers need not begin at 0."""
    available = len(device.core_ids)
    threads = settings.threads or device.cores
    if threads > available:
        raise EngineError(
            f"threads: {threads} are more than the {available} cores that this process may use"
        )
    environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, device.core_ids[:threads]))
    # Threads wait for each other some thirty times a token. Spinning for long starves whoever else
    # needs the core, our own process first; sleeping at once is slow to wake up.
    environment["GOMP_SPINCOUNT"] = "10000"
    if settings.threads:
        return Choice("threads", str(threads), "the threads setting")
    return Choice("threads", str(threads), "one for each core")
