"""What a machine says about itself is read right, and overrides are honoured and named."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from senryu.server.device import (
    MIB,
    Device,
    Gpu,
    detect,
    read_cores,
    read_cpu_name,
    read_gpus,
    read_instruction_sets,
    read_memory,
    read_override,
    read_visible,
    refusal,
)

H200 = Gpu(name="NVIDIA H200", memory=143771 * MIB)
A10 = Gpu(name="NVIDIA A10, PCIe", memory=23028 * MIB)

CPU = Device(
    kind="cpu",
    name="Some Processor",
    memory=8 * 2**30,
    core_ids=(0, 1),
    cores=2,
    instruction_sets=("avx2",),
    reason="",
)


@pytest.mark.parametrize(
    ("csv", "gpus"),
    [
        ("", []),
        ("NVIDIA H200, 143771 MiB\n", [H200]),
        ("NVIDIA H200, 143771 MiB\nNVIDIA A10, PCIe, 23028 MiB\n", [H200, A10]),
        ("NVIDIA GB10, [N/A]\n", [Gpu(name="NVIDIA GB10", memory=0)]),
        ("No devices were found\n", []),
    ],
)
def test_each_line_of_nvidia_smi_is_one_gpu(csv: str, gpus: list[Gpu]) -> None:
    assert read_gpus(csv) == gpus


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, [H200, A10]),
        ("", []),
        ("-1", []),
        ("1", [A10]),
        ("1,0", [A10, H200]),
        ("0,7,1", [H200]),
        ("GPU-1b2c", [H200]),
    ],
)
def test_cuda_visible_devices_hides_and_orders(visible: str | None, left: list[Gpu]) -> None:
    assert read_visible([H200, A10], visible) == left


@pytest.mark.parametrize(
    ("said", "meant"), [(None, None), ("", None), ("auto", None), ("cpu", "cpu"), (" GPU ", "gpu")]
)
def test_the_override_is_read(said: str | None, meant: str | None) -> None:
    assert read_override({} if said is None else {"SENRYU_DEVICE": said}) == meant


def test_a_device_that_does_not_exist_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"SENRYU_DEVICE is 'tpu'.*set it to cpu or gpu"):
        read_override({"SENRYU_DEVICE": "tpu"})


@pytest.mark.parametrize(
    ("cpuinfo", "sets"),
    [
        ("", ()),
        ("flags\t\t: fpu sse2 avx\n", ()),
        ("flags : fpu avx2\nflags : fpu avx2 avx512f\n", ("avx2",)),
        (
            "model name: X\nflags\t: amx_tile avx512_bf16 avx512_vnni avx512f avx2\n",
            ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx"),
        ),
        ("Features\t: fp asimd bf16\n", ("neon",)),
    ],
)
def test_instruction_sets_are_read(cpuinfo: str, sets: tuple[str, ...]) -> None:
    assert read_instruction_sets(cpuinfo) == sets


def test_a_processor_without_a_name_goes_by_its_machine() -> None:
    assert read_cpu_name("model name\t: AMD EPYC\n", "x86_64") == "AMD EPYC"
    assert read_cpu_name("Features : asimd\n", "aarch64") == "aarch64 processor"


@pytest.mark.parametrize(
    ("meminfo", "limit", "size"),
    [
        ("MemTotal:  1000 kB\n", "", 1_024_000),
        ("MemTotal:  1000 kB\n", "max\n", 1_024_000),
        ("MemTotal:  1000 kB\n", "2048\n", 2048),
        ("MemTotal:  1000 kB\n", "9999999999\n", 1_024_000),
        ("", "max", 0),
    ],
)
def test_a_container_may_have_less_memory(meminfo: str, limit: str, size: int) -> None:
    assert read_memory(meminfo, limit) == size


@pytest.mark.parametrize(
    ("system", "machine", "glibc", "sets", "sentence"),
    [
        ("linux", "x86_64", "2.28", ("avx2",), None),
        ("linux", "aarch64", "2.39", ("neon",), None),
        ("darwin", "arm64", "", (), "runs on Linux and this is darwin"),
        ("linux", "riscv64", "2.39", (), "this one is riscv64"),
        ("linux", "x86_64", "2.17", ("avx2",), "this system has glibc 2.17"),
        ("linux", "x86_64", "", ("avx2",), "this system has another C library"),
        ("linux", "x86_64", "2.39", (), "Some Processor has none"),
    ],
)
def test_a_machine_that_cannot_do_it_gets_one_sentence_that_says_what_to_do(
    system: str, machine: str, glibc: str, sets: tuple[str, ...], sentence: str | None
) -> None:
    said = refusal(system, machine, glibc, dataclasses.replace(CPU, instruction_sets=sets))
    if sentence is None:
        assert said is None
    else:
        assert said is not None
        assert sentence in said
        assert re.search(r": (use|run) ", said)


def test_a_gpu_machine_may_have_an_old_processor() -> None:
    gpu = dataclasses.replace(CPU, kind="gpu", instruction_sets=())
    assert refusal("linux", "x86_64", "2.39", gpu) is None


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` first on PATH; the test writes what it does."""
    script = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return script


def says(script: Path, body: str) -> None:
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def test_a_gpu_that_the_driver_lists_is_chosen(driver: Path) -> None:
    says(driver, "echo 'NVIDIA H200, 143771 MiB'")
    device = detect({})
    assert (device.kind, device.name) == ("gpu", "NVIDIA H200")
    assert device.memory == H200.memory
    assert device.summary == "NVIDIA H200, 140.4 GiB"


@pytest.mark.parametrize(
    ("environment", "kind", "reason"),
    [
        ({"SENRYU_DEVICE": "cpu"}, "cpu", "SENRYU_DEVICE=cpu"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "cpu", 'CUDA_VISIBLE_DEVICES=""'),
        ({"CUDA_VISIBLE_DEVICES": "4"}, "cpu", 'CUDA_VISIBLE_DEVICES="4"'),
        ({"SENRYU_DEVICE": "gpu"}, "gpu", "SENRYU_DEVICE=gpu"),
        ({"SENRYU_DEVICE": "gpu", "CUDA_VISIBLE_DEVICES": ""}, "gpu", "although"),
    ],
)
def test_an_override_is_honoured_and_named(
    driver: Path, environment: dict[str, str], kind: str, reason: str
) -> None:
    says(driver, "echo 'NVIDIA H200, 143771 MiB'")
    device = detect(environment)
    assert device.kind == kind
    assert reason in device.reason


def test_a_broken_driver_means_the_cpu_and_its_words_are_kept(driver: Path) -> None:
    says(driver, "echo 'Failed to initialize NVML'; exit 9")
    device = detect({})
    assert device.kind == "cpu"
    assert "Failed to initialize NVML" in device.reason
    assert device.cores == len(os.sched_getaffinity(0))


def test_it_runs_on_a_bare_python() -> None:
    root = Path(__file__).parents[2]
    code = "import server.device as d; print(d.detect().kind)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("cpu", "gpu")


@pytest.mark.parametrize(
    ("ids", "cpu_max", "cores"),
    [
        ((0, 1, 2, 3), "max 100000", 4),
        ((0, 1, 2, 3), "", 4),
        ((0, 1, 2, 3), "200000 100000", 2),
        ((0, 1, 2, 3), "50000 100000", 1),
        ((0, 1), "6400000 100000", 2),
    ],
)
def test_a_containers_quota_bounds_the_cores_that_count(
    ids: tuple[int, ...], cpu_max: str, cores: int
) -> None:
    assert read_cores(ids, cpu_max) == cores
