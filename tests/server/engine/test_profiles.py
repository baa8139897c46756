"""A profile changes what it says, gives a reason for each, and leaves what was set by hand."""

import dataclasses
from dataclasses import replace
from typing import Any, get_args

import pytest

from senryu.server.device import Device
from senryu.server.engine.profiles import Profile, tuned
from senryu.server.engine.vllm_arguments import (
    GIB,
    ModelFacts,
    Storage,
    VllmArguments,
    vllm_arguments,
)
from senryu.server.layers import SettingsError, load
from senryu.server.settings import ServerSettings
from senryu.server.turn.dialects.hermes import HermesDialect

CPU = Device(
    kind="cpu",
    name="A Processor",
    memory=24 * GIB,
    core_ids=(0, 1),
    cores=2,
    instruction_sets=("avx2",),
    reason="no GPU",
)
GPU = replace(CPU, kind="gpu", name="A GPU", memory=80 * GIB)
MODEL = ModelFacts(
    folder="/models/m",
    name="org/m",
    scheme="w4a16, group 32",
    trained_window=8192,
    created_at="2026-01-01T00:00:00Z",
    dialect=HermesDialect(),
    dialect_why="its template says so",
)
PROFILES: tuple[Profile, ...] = get_args(Profile)
BOTH = pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])


def arguments(device: Device, model: ModelFacts = MODEL, **settings: Any) -> VllmArguments:
    storage = Storage(folder="/kv", weights="w", shared_memory=64 * GIB)
    told = ServerSettings(**settings)
    return vllm_arguments(told, device, model, build="vllm 0.32", storage=storage)


def shown(given: VllmArguments) -> tuple[str, str]:
    ((value, why),) = [(each.value, each.why) for each in given.choices if each.name == "profile"]
    return value, why


@BOTH
def test_balanced_is_the_default_and_adds_nothing(device: Device) -> None:
    assert ServerSettings().profile == "balanced"
    assert tuned("balanced", on_cpu=device is CPU) == ()
    engine = arguments(device).engine
    assert not {"kv_cache_dtype", "speculative_config"} & set(engine)
    on_cpu = {"long_prefill_token_threshold": 256, "max_num_batched_tokens": 512}
    steps = ("long_prefill_token_threshold", "max_num_batched_tokens", "max_num_seqs")
    found = {name: engine[name] for name in steps if name in engine}
    assert found == (on_cpu if device is CPU else {})
    assert shown(arguments(device)) == ("balanced", "some of both, the default")


@BOTH
@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_the_others_are_told_and_every_argument_has_a_reason(
    device: Device, profile: Profile
) -> None:
    given = arguments(device, profile=profile)
    assert shown(given) == (profile, "the profile setting")
    rows = tuned(profile, on_cpu=device is CPU)
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert given.engine[row.name] == row.value
        assert row.why
        assert "\n" not in row.why


@BOTH
def test_latency_takes_few_and_short_steps_and_throughput_many_and_long(device: Device) -> None:
    few, many = (arguments(device, profile=name).engine for name in ("latency", "throughput"))
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        assert few[name] < many[name]
    for engine in (few, many):
        assert engine["max_num_seqs"] <= engine["max_num_batched_tokens"], "vLLM refuses more"


@BOTH
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("streams", [1, 5000])
def test_streams_that_were_set_by_hand_hold_and_find_room_in_a_step(
    device: Device, profile: Profile, streams: int
) -> None:
    engine = arguments(device, profile=profile, max_streams=streams).engine
    assert engine["max_num_seqs"] == streams
    assert engine.get("max_num_batched_tokens", 10**6) >= streams


@pytest.mark.parametrize("profile", PROFILES)
def test_no_piece_of_a_prompt_is_longer_than_the_window(profile: Profile) -> None:
    small = arguments(CPU, profile=profile, window=100).engine
    assert small["long_prefill_token_threshold"] == 100
    trained = replace(MODEL, trained_window=64)
    engine = arguments(CPU, trained, profile=profile).engine
    assert engine["long_prefill_token_threshold"] == 64


def test_kept_prompts_of_another_type_lie_in_a_folder_of_their_own() -> None:
    def folder(profile: Profile) -> str:
        told = arguments(GPU, profile=profile).engine["kv_transfer_config"]
        (tier,) = told["kv_connector_extra_config"]["secondary_tiers"]
        return str(tier["root_dir"])

    assert folder("balanced") == folder("latency") != folder("throughput")


def test_another_profile_is_refused_with_a_sentence() -> None:
    with pytest.raises(SettingsError, match="profile"):
        load(ServerSettings, table="server", environment={"SENRYU_PROFILE": "fast"}, flags={})


@BOTH
@pytest.mark.parametrize("profile", PROFILES)
def test_vllm_knows_the_arguments_by_these_names(device: Device, profile: Profile) -> None:
    args = pytest.importorskip("vllm.engine.arg_utils", reason="the engine is not installed")
    known = {field.name for field in dataclasses.fields(args.AsyncEngineArgs)}
    assert {row.name for row in tuned(profile, on_cpu=device is CPU)} <= known
