"""What vLLM is started with follows from settings, machine and model, and every choice says why."""

import inspect
import re
from dataclasses import replace
from typing import Any

import pytest

from senryu.server.device import Device
from senryu.server.engine.base import EngineError
from senryu.server.engine.vllm_arguments import (
    GIB,
    ModelFacts,
    Storage,
    Tended,
    VllmArguments,
    memory_choices,
    vllm_arguments,
)
from senryu.server.settings import ServerSettings
from senryu.server.turn.dialects.hermes import HermesDialect

CPU = Device(
    kind="cpu",
    name="A Processor",
    memory=24 * GIB,
    core_ids=(0, 1, 2, 3),
    cores=4,
    instruction_sets=("avx2",),
    reason="no GPU",
)
GPU = replace(CPU, kind="gpu", name="A GPU", memory=80 * GIB, reason="it is there")
MODEL = ModelFacts(
    folder="/models/m",
    name="org/m",
    scheme="w4a16, group 32",
    trained_window=8192,
    created_at="2026-01-01T00:00:00Z",
    dialect=HermesDialect(),
    dialect_why="its template says so",
)


def arguments(device: Device = CPU, model: ModelFacts = MODEL, **settings: Any) -> VllmArguments:
    return vllm_arguments(ServerSettings(**settings), device, model, build="vllm-x 1.2")


def choice(arguments: VllmArguments, name: str) -> tuple[str, str]:
    ((value, why),) = [(c.value, c.why) for c in arguments.choices if c.name == name]
    return value, why


def facts(**changed: Any) -> ModelFacts:
    return ModelFacts(**{name: getattr(MODEL, name) for name in ModelFacts.__slots__} | changed)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_what_is_common_to_every_machine(device: Device) -> None:
    engine = arguments(device).engine
    assert engine["model"] == "/models/m"
    assert engine["served_model_name"] == "org/m"
    assert engine["enable_prefix_caching"] is True
    assert engine["scheduling_policy"] == "priority"
    assert engine["max_logprobs"] == -1, "a teacher may store any number of them"
    assert engine["limit_mm_per_prompt"] == {"image": 600, "video": 0, "audio": 0}
    assert arguments(device).created_at == MODEL.created_at
    assert arguments(device).dialect == MODEL.dialect
    assert choice(arguments(device), "dialect") == ("hermes", "its template says so")


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        (CPU, {}, {"enforce_eager": True}),
        (GPU, {}, {"enforce_eager": False}),
        (CPU, {"compile": True}, {"enforce_eager": False}),
        (GPU, {"compile": False}, {"enforce_eager": True}),
        (CPU, {"block_size": 64}, {"block_size": 64}),
        (CPU, {}, {"block_size": 32}),
        (GPU, {}, {"block_size": None}),
        (GPU, {"block_size": 16}, {"block_size": 16}),
        (CPU, {}, {"dtype": "bfloat16"}),
        (GPU, {}, {"dtype": "auto"}),
        (CPU, {"dtype": "float16"}, {"dtype": "float16"}),
        (GPU, {"dtype": "float32"}, {"dtype": "float32"}),
        (CPU, {"kv_memory_gib": 1.5}, {"kv_cache_memory_bytes": 3 * GIB // 2}),
        (GPU, {"kv_memory_gib": 8}, {"kv_cache_memory_bytes": 8 * GIB}),
        (CPU, {}, {"kv_cache_memory_bytes": 2 * GIB, "gpu_memory_utilization": None}),
        (GPU, {}, {"kv_cache_memory_bytes": None, "gpu_memory_utilization": 0.9}),
        (CPU, {"max_streams": 7}, {"max_num_seqs": 7}),
        (CPU, {}, {"max_num_seqs": None}),
        (CPU, {"window": 100}, {"max_model_len": 100}),
        (CPU, {}, {"max_model_len": -1}),
        (GPU, {}, {"max_model_len": -1}),
    ],
)
def test_machine_and_settings_decide_the_arguments(
    device: Device, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    engine = arguments(device, **settings).engine
    assert {name: engine.get(name) for name in expected} == expected


@pytest.mark.parametrize(("gib", "kv"), [(0, 0.5), (2, 0.5), (12, 1), (48, 4), (1000, 4)])
def test_kv_memory_on_a_cpu_is_a_bounded_share_of_the_machines(gib: int, kv: float) -> None:
    machine = replace(CPU, memory=gib * GIB)
    assert arguments(machine).engine["kv_cache_memory_bytes"] == int(kv * GIB)


def test_a_dtype_that_would_die_on_the_first_request_is_refused_at_once() -> None:
    with pytest.raises(EngineError, match=r"^dtype: vLLM's 4-bit kernel on a CPU has no float32"):
        arguments(dtype="float32")
    plain = arguments(model=facts(scheme="bf16"), dtype="float32")
    assert plain.engine["dtype"] == "float32"


@pytest.mark.parametrize("scheme", ["nvfp4a16, group 16", "mxfp4, group 32", "w4a8-fp8"])
def test_weights_that_a_cpu_has_no_kernel_for_are_refused_at_once(scheme: str) -> None:
    with pytest.raises(EngineError, match=r"no kernel on a CPU; quantize the 16-bit model .* w4a"):
        arguments(model=facts(scheme=scheme))
    assert arguments(GPU, model=facts(scheme=scheme)).engine["model"]


@pytest.mark.parametrize(
    ("device", "settings", "window", "kv_tokens", "said"),
    [
        (CPU, {}, 8192, 90_000, {"window": "8,192 tokens", "KV memory": "2.0 GiB, 90,000 tokens"}),
        (CPU, {"kv_memory_gib": 1}, 8192, 45_000, {"KV memory": "1 GiB, 45,000 tokens"}),
        (GPU, {}, 8192, 10**6, {"KV memory": "what weights leave of 90 % of the GPU, 1,000,000"}),
    ],
)
def test_the_banner_says_what_vllm_made_of_window_and_memory(
    device: Device, settings: dict[str, Any], window: int, kv_tokens: int, said: dict[str, str]
) -> None:
    chosen = memory_choices(
        ServerSettings(**settings), device, MODEL, window=window, kv_tokens=kv_tokens
    )
    values = {choice.name: choice.value for choice in chosen}
    assert all(values[name].startswith(text) for name, text in said.items())


@pytest.mark.parametrize(
    ("settings", "window", "why"),
    [
        ({"window": 100}, 100, "the window setting"),
        ({}, 8192, "the model's own"),
        ({}, 4096, "the model's own is 8,192, but the KV memory holds no more"),
    ],
)
def test_a_window_that_the_memory_cut_is_told_apart_from_the_models_own(
    settings: dict[str, Any], window: int, why: str
) -> None:
    window_choice, _ = memory_choices(
        ServerSettings(**settings), CPU, MODEL, window=window, kv_tokens=4096
    )
    assert window_choice.why == why


@pytest.mark.parametrize(
    ("settings", "core_ids", "quota", "bound"),
    [
        ({}, (0, 1, 2, 3), 4, "0,1,2,3"),
        ({}, (5,), 1, "5"),
        ({}, (4, 6, 7), 3, "4,6,7"),
        ({}, (0, 1, 2, 3), 2, "0,1"),
        ({"threads": 2}, (4, 6, 7), 3, "4,6"),
        ({"threads": 3}, (0, 1, 2), 1, "0,1,2"),
    ],
)
def test_threads_on_a_cpu_are_bound_to_the_cores_that_we_may_use(
    settings: dict[str, Any], core_ids: tuple[int, ...], quota: int, bound: str
) -> None:
    given = arguments(replace(CPU, core_ids=core_ids, cores=quota), **settings)
    assert given.environment["VLLM_CPU_OMP_THREADS_BIND"] == bound
    assert given.environment["GOMP_SPINCOUNT"] == "10000", "see the lab notes of 2026-11-22"
    assert choice(given, "threads")[0] == str(len(bound.split(",")))


def test_more_threads_than_cores_are_refused_with_a_sentence() -> None:
    with pytest.raises(EngineError, match=r"^threads: 5 are more than the 4 cores"):
        arguments(threads=5)


def test_a_gpu_chooses_no_threads() -> None:
    given = arguments(GPU)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in given.environment
    assert "threads" not in {choice.name for choice in given.choices}


@pytest.mark.parametrize("device", [CPU, GPU])
def test_vllms_processes_are_spawned_so_that_the_lifeline_is_held_in_each(device: Device) -> None:
    """A forked child has loaded the plug-ins already and would not call `hold` again."""
    assert arguments(device).environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize("device", [CPU, GPU])
def test_every_choice_has_a_value_and_a_reason(device: Device) -> None:
    given = arguments(device)
    names = [choice.name for choice in given.choices]
    assert names[:4] == ["device", "engine", "model", "weights"]
    assert "activations" in names
    assert len(names) == len(set(names))
    assert all(choice.value and choice.why for choice in given.choices)
    assert choice(given, "device") == (device.summary, device.reason)
    assert choice(given, "engine")[0] == "vllm-x 1.2"
    assert choice(given, "weights")[0] == "w4a16, group 32"


@pytest.mark.parametrize(
    ("settings", "name", "why"),
    [
        ({"dtype": "float16"}, "activations", "the dtype setting"),
        ({"threads": 3}, "threads", "the threads setting"),
    ],
)
def test_what_was_set_by_hand_gives_the_setting_as_its_reason(
    settings: dict[str, Any], name: str, why: str
) -> None:
    assert choice(arguments(**settings), name)[1] == why


def test_a_long_prompt_does_not_hold_up_others_on_a_cpu() -> None:
    assert arguments(CPU).engine["long_prefill_token_threshold"] == 256
    assert arguments(CPU, window=128).engine["long_prefill_token_threshold"] == 128
    assert "long_prefill_token_threshold" not in arguments(GPU).engine


def test_a_step_has_room_for_a_token_of_every_stream() -> None:
    assert arguments(CPU).engine["max_num_batched_tokens"] == 512
    assert arguments(CPU, max_streams=800).engine["max_num_batched_tokens"] == 800
    assert "max_num_batched_tokens" not in arguments(GPU, max_streams=800).engine


STORAGE = Storage(folder="/cache/kv", weights="ab" * 32, shared_memory=12 * GIB)


def tiers(
    device: Device, storage: Storage = STORAGE, build: str = "vllm-x 0.32.1", **settings: Any
) -> VllmArguments:
    return vllm_arguments(ServerSettings(**settings), device, MODEL, build=build, storage=storage)


def test_on_a_cpu_marked_prompts_are_kept_in_files() -> None:
    given = tiers(CPU, kv_files_gib=2)
    transfer = given.engine["kv_transfer_config"]
    assert transfer["kv_connector_module_path"] == "senryu.server.engine.kv.connector"
    assert transfer["kv_load_failure_policy"] == "recompute"
    assert transfer["kv_connector_extra_config"] == {
        "folder": "/cache/kv",
        "bytes": 2 * GIB,
        "weights": "ab" * 32,
    }
    assert choice(given, "kept prompts")[0] == "up to 2 GiB in /cache/kv"
    assert given.tended is None, "the connector tidies up itself"


def test_on_a_gpu_they_are_kept_in_vllms_own_tiers() -> None:
    def placed(arguments: VllmArguments) -> str:
        transfer = arguments.engine["kv_transfer_config"]
        folder: str = transfer["kv_connector_extra_config"]["secondary_tiers"][0]["root_dir"]
        return folder

    given = tiers(GPU)
    transfer = given.engine["kv_transfer_config"]
    folder = placed(given)
    assert re.fullmatch(r"/cache/kv/gpu-[0-9a-f]{32}", folder)
    others = [
        tiers(GPU, replace(STORAGE, weights="cd" * 32)),
        tiers(GPU, build="vllm-x 0.32.2"),
        tiers(replace(GPU, name="Another GPU")),
    ]
    assert len({folder, *map(placed, others)}) == 4
    assert transfer["kv_connector"] == "OffloadingConnector"
    assert transfer["kv_connector_extra_config"] == {
        "spec_name": "TieringOffloadingSpec",
        "cpu_bytes_to_use": 9 * GIB,
        "secondary_tiers": [{"type": "fs", "root_dir": folder}],
    }
    assert given.tended == Tended(folder="/cache/kv", bytes=8 * GIB), "of all models together"
    assert choice(given, "KV in memory")[0] == "9.0 GiB beside the GPU's"
    assert choice(given, "kept prompts")[0] == "up to 8 GiB in /cache/kv"


@pytest.mark.parametrize(
    ("settings", "shared", "size", "why"),
    [
        ({}, 12, 9, "three quarters of the shared memory"),
        ({}, 100, 10, "an eighth of the machine's memory"),
        ({"kv_cpu_gib": 3}, 12, 3, "the kv_cpu_gib setting"),
    ],
)
def test_memory_beside_a_gpus_is_a_bounded_share(
    settings: dict[str, Any], shared: int, size: int, why: str
) -> None:
    given = tiers(GPU, replace(STORAGE, shared_memory=shared * GIB), **settings)
    extra = given.engine["kv_transfer_config"]["kv_connector_extra_config"]
    assert extra["cpu_bytes_to_use"] == size * GIB
    assert choice(given, "KV in memory")[1].startswith(why)


def test_more_memory_than_may_be_shared_is_refused_with_a_sentence() -> None:
    with pytest.raises(EngineError, match=r"^kv_cpu_gib: 10 GiB are more .* 12\.0 GiB; .*shm-size"):
        tiers(GPU, kv_cpu_gib=10)


def test_without_shared_memory_there_are_no_tiers_and_the_banner_says_so() -> None:
    given = tiers(GPU, replace(STORAGE, shared_memory=64 * 2**20))
    assert "kv_transfer_config" not in given.engine
    assert choice(given, "kept prompts") == ("none", "too little shared memory is free")


@pytest.mark.parametrize(
    ("device", "settings", "build"),
    [
        (CPU, {"kv_files_gib": 0}, "vllm-cpu 0.32.0"),
        (GPU, {"kv_cpu_gib": 0}, "vllm 0.32.0"),
        (GPU, {}, "vllm 0.31.2"),  # whose connectors and schedulers we have not read
    ],
)
def test_what_is_turned_off_is_not_there(
    device: Device, settings: dict[str, Any], build: str
) -> None:
    given = tiers(device, build=build, **settings)
    assert "kv_transfer_config" not in given.engine
    assert given.tended is None
    assert "kept prompts" not in {choice.name for choice in given.choices}


def test_without_files_a_gpu_still_has_the_machines_memory() -> None:
    given = tiers(GPU, kv_files_gib=0)
    extra = given.engine["kv_transfer_config"]["kv_connector_extra_config"]
    assert extra["secondary_tiers"] == []
    assert given.tended is None


def test_the_scheduler_tells_early_wherever_we_know_it() -> None:
    ours = "senryu.server.engine.kv.telling.scheduler"
    assert tiers(CPU).engine["scheduler_cls"] == ours
    assert tiers(GPU).engine["scheduler_cls"] == ours
    assert "scheduler_cls" not in tiers(GPU, build="vllm 0.31.2").engine


@pytest.mark.parametrize("device", [CPU, GPU])
def test_prefixes_are_known_by_the_same_digest_in_every_process(device: Device) -> None:
    assert arguments(device).engine["prefix_caching_hash_algo"] == "sha256"
    assert "PYTHONHASHSEED" not in arguments(device).environment, "vLLM would take it for a seed"


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # what the engine imports into this process is not ours
@pytest.mark.parametrize("device", [CPU, GPU])
def test_vllm_knows_the_connectors_and_their_tiers_by_these_names(device: Device) -> None:
    config = pytest.importorskip("vllm.config")
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    transfer = config.KVTransferConfig(**tiers(device).engine["kv_transfer_config"])
    assert KVConnectorFactory.get_connector_class(transfer)
    assert KVConnectorFactory.supports_hma_config(transfer)
    extra = transfer.kv_connector_extra_config
    if device is GPU:
        from vllm.v1.kv_offload.factory import OffloadingSpecFactory
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        assert OffloadingSpecFactory.get_spec_cls(extra).__name__ == "TieringOffloadingSpec"
        (tier,) = extra["secondary_tiers"]
        known = inspect.signature(SecondaryTierFactory.get_tier_class(tier)).parameters
        assert set(tier) - {"type"} <= set(known)
