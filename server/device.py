"""What this machine can compute with, found out without importing anything heavy.

In:  /proc, the scheduler, `nvidia-smi`, and two environment variables that overrule them:
     SENRYU_DEVICE=cpu|gpu says which one to use, an empty CUDA_VISIBLE_DEVICES hides the GPU.
Out: one `Device`, with the reason why it is that one; set-up, `serve` and `doctor` print it.
It refuses to know torch, vLLM and our settings: set-up runs it on a bare Python, before any of
them exist. The functions named `read_*` turn text into values and touch nothing, so they have
table tests; `refusal` is pure as well; `detect` alone looks at the machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

Kind = Literal["cpu", "gpu"]

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
NVIDIA_SMI_SECONDS = 15.0  # the driver of a GPU nobody uses can take ten seconds to wake up

# The kernel's name for each instruction set that changes how a 4-bit model runs -> our name.
INSTRUCTION_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx",
    "asimd": "neon",  # aarch64
}
MIB = 1024 * 1024
OLDEST_GLIBC = (2, 28)  # the wheels of torch and vLLM are built against it


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device that an engine should use on this machine."""

    kind: Kind
    name: str
    """The GPU's or the processor's own name."""
    memory: int
    """Bytes: the GPU's memory, or what this process may use of the machine's. 0: not known."""
    core_ids: tuple[int, ...]
    """The processor cores that this process may run on, by the kernel's numbers."""
    cores: int
    """How many of them it may keep busy: a container may be given less time than cores."""
    instruction_sets: tuple[str, ...]
    """Those of avx2, avx512f, avx512_vnni, avx512_bf16, amx and neon that the processor has."""
    reason: str
    """Half a sentence, to be printed: why this kind."""

    @property
    def summary(self) -> str:
        """One line for people, without the reason."""
        size = f", {self.memory / 2**30:.1f} GiB" if self.memory else ""
        if self.kind == "gpu":
            return f"{self.name}{size}"
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        sets = f", {' '.join(self.instruction_sets)}" if self.instruction_sets else ""
        return f"{self.name}, {cores}{size}{sets}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One line of nvidia-smi's answer."""

    name: str
    memory: int


def read_gpus(csv: str) -> list[Gpu]:
    """`nvidia-smi`'s answer, one GPU a line: `NVIDIA H200, 143771 MiB`.

    A GPU that shares the machine's memory says `[N/A]`, which counts as 0, not known.
    """
    gpus = []
    for line in csv.splitlines():
        name, comma, memory = line.rpartition(",")
        if not comma or not name.strip():
            continue  # a warning of the driver, not a GPU
        number, _, unit = memory.strip().partition(" ")
        known = number.isdigit() and unit.strip() == "MiB"
        gpus.append(Gpu(name=name.strip(), memory=int(number) * MIB if known else 0))
    return gpus


def read_visible(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves of them: none when empty or -1, else those it numbers."""
    if visible is None:
        return gpus
    wanted = [part.strip() for part in visible.split(",")]
    chosen = []
    for part in wanted:
        if part.isdigit():
            if int(part) >= len(gpus):
                break  # CUDA itself stops at the first number that is not there
            chosen.append(gpus[int(part)])
        elif part.startswith(("GPU-", "MIG-")):
            return gpus[:1]  # named by identity: the list of names cannot say which
        else:
            break
    return chosen


def read_override(environment: Mapping[str, str]) -> Kind | None:
    """SENRYU_DEVICE, where it says something."""
    said = environment.get("SENRYU_DEVICE", "").strip().lower()
    match said:
        case "" | "auto":
            return None
        case "cpu" | "gpu":
            return said
        case _:
            raise ValueError(
                f"SENRYU_DEVICE is {said!r}, which is no device: set it to cpu or gpu, or unset it."
            )


def read_cpu_name(cpuinfo: str, machine: str) -> str:
    """The processor's own name; on aarch64 /proc/cpuinfo has none and the machine's must do."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return f"{machine} processor"


def read_instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """The instruction sets of interest in /proc/cpuinfo (`flags` on x86-64, `Features` on Arm)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = set(value.split())
            return tuple(ours for kernels, ours in INSTRUCTION_SETS.items() if kernels in found)
    return ()


def read_cores(core_ids: tuple[int, ...], cpu_max: str) -> int:
    """Cores' worth of time: the cores we may use, or fewer where a container's quota says so.

    `cpu_max` is the control group's `quota period`, both in microseconds, or `max period`.
    """
    quota, _, period = cpu_max.strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return max(1, min(len(core_ids), int(quota) // int(period)))
    return len(core_ids)


def read_memory(meminfo: str, cgroup_limit: str) -> int:
    """Bytes this process may use: all of the machine's, or less where a container says so."""
    total = 0
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    limit = cgroup_limit.strip()
    return min(total, int(limit)) if limit.isdigit() and total else total


def refusal(system: str, machine: str, glibc: str, device: Device) -> str | None:
    """Why no build of vLLM can run on this machine, or None: set-up and the engine ask before they
    begin."""
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


def detect(environment: Mapping[str, str] | None = None) -> Device:
    """Look at the machine. Raises ValueError, with a sentence for the user, on a bad override."""
    env = os.environ if environment is None else environment
    override = read_override(env)
    if override == "cpu":
        return _cpu("SENRYU_DEVICE=cpu")
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if override is None and visible is not None and visible.strip() in ("", "-1"):
        return _cpu(f'CUDA_VISIBLE_DEVICES="{visible.strip()}" hides any GPU')
    gpus, why_none = _ask_nvidia_smi()
    seen = read_visible(gpus, visible)
    if gpus and not seen:
        why_none = f'CUDA_VISIBLE_DEVICES="{visible}" hides the GPU'
    if seen:
        reason = "SENRYU_DEVICE=gpu" if override else "nvidia-smi lists it"
        return _gpu(seen[0], reason)
    if override == "gpu":
        unseen = Gpu(name="an NVIDIA GPU", memory=0)
        return _gpu(unseen, f"SENRYU_DEVICE=gpu, although {why_none}")
    return _cpu(why_none)


def _ask_nvidia_smi() -> tuple[list[Gpu], str]:
    """The GPUs of this machine, and when there are none, why."""
    try:
        answer = subprocess.run(
            NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False
        )
    except FileNotFoundError:
        return [], "no NVIDIA GPU: there is no nvidia-smi"
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"no usable NVIDIA GPU: nvidia-smi failed ({type(error).__name__})"
    if answer.returncode != 0:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        return [], f"no usable NVIDIA GPU: nvidia-smi says {said[0] if said else 'nothing'}"
    return read_gpus(answer.stdout), "nvidia-smi lists no GPU"


def _gpu(gpu: Gpu, reason: str) -> Device:
    return Device(
        kind="gpu",
        name=gpu.name,
        memory=gpu.memory,
        **_cores(),
        instruction_sets=read_instruction_sets(_text("/proc/cpuinfo")),
        reason=reason,
    )


def _cpu(reason: str) -> Device:
    cpuinfo = _text("/proc/cpuinfo")
    return Device(
        kind="cpu",
        name=read_cpu_name(cpuinfo, os.uname().machine),
        memory=read_memory(_text("/proc/meminfo"), _text("/sys/fs/cgroup/memory.max")),
        **_cores(),
        instruction_sets=read_instruction_sets(cpuinfo),
        reason=reason,
    )


class _Cores(TypedDict):
    core_ids: tuple[int, ...]
    cores: int


def _cores() -> _Cores:
    ids = tuple(sorted(os.sched_getaffinity(0)))
    return _Cores(core_ids=ids, cores=read_cores(ids, _text("/sys/fs/cgroup/cpu.max")))


def _text(path: str) -> str:
    """The file's text; none at all where the system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
