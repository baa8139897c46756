"""Models are timed in turns; the verdict says which to serve; sizes are those of the files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from senryu.quant.compare.speed import (
    Rate,
    folder_bytes,
    rates,
    stored_bytes,
    verdict,
    weight_bits,
)
from senryu.quant.errors import QuantizeError


def test_they_take_turns_so_that_drift_falls_on_both() -> None:
    """A machine that grows slower with every round is no reason to call one model slower."""
    order: list[str] = []

    def timed(name: str, streams: int) -> float:
        order.append(name)
        return 100.0 - len(order)

    (found,) = rates([8], 2, lambda n: timed("a", n), lambda n: timed("b", n))
    assert order == ["a", "b", "b", "a"]
    assert found.streams == 8
    assert found.ratio == pytest.approx(1.0)


def rate(streams: int, ratio: float) -> Rate:
    return Rate(streams=streams, parent=(10.0,), candidate=(10.0 * ratio,))


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        (
            (2.31, 0.9),
            "4-bit is 2.3 times as fast as bf16 at 1 stream and 0.9 times as fast at 64: "
            "at 64 serve bf16.",
        ),
        (
            (2, 1.5, 1.2),
            "4-bit is 2 times as fast as bf16 at 1 stream, 1.5 times as fast at 8 and "
            "1.2 times as fast at 64: serve 4-bit.",
        ),
        ((0.5,), "4-bit is 0.5 times as fast as bf16 at 1 stream: serve bf16 where the memory"),
        ((1.01,), "4-bit is about as fast as bf16 at 1 stream: serve 4-bit for its size."),
    ],
)
def test_the_verdict_says_which_to_serve(ratios: tuple[float, ...], words: str) -> None:
    streams = (1, 64) if len(ratios) == 2 else (1, 8, 64)
    found = [rate(count, ratio) for count, ratio in zip(streams, ratios, strict=False)]
    assert verdict(found, "4-bit", "bf16").startswith(words)


def test_bits_count_scales_and_leave_out_what_is_not_linear(tmp_path: Path) -> None:
    layer = "model.layers.0.mlp.up_proj"
    save_file(
        {
            f"{layer}.weight_packed": torch.zeros(64, 4, dtype=torch.int32),
            f"{layer}.weight_scale": torch.zeros(64, 1, dtype=torch.bfloat16),
            f"{layer}.bias": torch.zeros(64),
            "model.norm.weight": torch.zeros(64),
        },
        tmp_path / "model.safetensors",
    )
    stored = stored_bytes(tmp_path)
    assert stored[f"{layer}.weight_packed"] == 1024
    assert weight_bits(stored, {layer: (64, 32)}) == pytest.approx(4.5)
    assert weight_bits(stored, {"other": (2, 2)}) is None
    size = (tmp_path / "model.safetensors").stat().st_size
    assert folder_bytes(tmp_path, {}) == folder_bytes(tmp_path, {"model.safetensors": 0}) == size


def test_a_damaged_head_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(QuantizeError, match=r"model\.safetensors is damaged"):
        stored_bytes(tmp_path)
