"""The ceilings are those that one computes by hand, and count each byte once."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from senryu.benches.roofline import (
    Reads,
    bandwidth,
    ceiling,
    kv_per_token,
    mean_context,
    percent,
    reads_of,
    weights_read,
)

QWEN3_8B = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
}
LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}


def folder_with(folder: Path, config: dict[str, Any], **tensors: int) -> Path:
    """A model folder whose file has only a head; `__` in a name stands for a dot."""
    (folder / "config.json").write_text(json.dumps(config))
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in tensors.items():
        head[name.replace("__", ".")] = {"data_offsets": [at, at + size]}
        at += size
    told = json.dumps(head).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(told)) + told)
    return folder


@pytest.mark.parametrize(
    ("config", "changed", "dtype", "bytes_"),
    [
        (QWEN3_8B, {}, "auto", 147_456),
        (QWEN3_8B, {}, "fp8", 73_728),
        (QWEN3_8B, {"num_hidden_layers": 28}, "auto", 114_688),
        (LLAMA_8B, {}, "auto", 131_072),
        (LLAMA_8B, {"num_key_value_heads": None}, "auto", 524_288),
    ],
)
def test_kv_of_a_token_is_what_the_config_says(
    config: dict[str, Any], changed: dict[str, Any], dtype: str, bytes_: int
) -> None:
    assert kv_per_token(config | changed, kv_dtype=dtype) == bytes_


def test_layers_that_differ_are_each_counted_as_they_are() -> None:
    blocks = [{"attention": {"n_heads_in_group": group}} for group in (32, 8, None)]
    differing = LLAMA_8B | {"block_configs": blocks}
    assert kv_per_token(differing) == 2 * 2 * 128 * (1 + 4)


def test_the_part_that_writes_counts_of_a_model_that_sees() -> None:
    assert kv_per_token({"num_hidden_layers": 99, "text_config": QWEN3_8B}) == 147_456


# Computed by hand: Qwen3-8B with 4.83 GB of 4-bit weights, Llama-3.1-8B with 4.65.
@pytest.mark.parametrize(
    ("weights", "kv", "bandwidth_gb", "streams", "context", "tokens"),
    [
        (4.83e9, 147_456, 4800, 1, 0, 994),
        (4.83e9, 147_456, 1008, 1, 0, 209),
        (4.83e9, 147_456, 4800, 1, 32_768, 497),
        (4.65e9, 131_072, 4800, 8, 1_536, 6_144),
        (4.65e9, 131_072, 4800, 64, 1_536, 17_530),
        (4.65e9, 65_536, 4800, 64, 1_536, 27_696),
    ],
)
def test_the_ceiling_is_the_one_computed_by_hand(
    weights: float, kv: int, bandwidth_gb: float, streams: int, context: int, tokens: float
) -> None:
    reads = Reads(weights=int(weights), kv_per_token=kv)
    most = ceiling(reads, bandwidth=bandwidth_gb * 1e9, streams=streams, context=context)
    assert most == pytest.approx(tokens, rel=0.002)


def test_percent_and_mean_context() -> None:
    assert percent(497, 994) == 50
    assert mean_context(512, 128) == 576


def test_an_embedding_is_read_where_it_is_the_head_and_only_there(tmp_path: Path) -> None:
    parts = {"model__embed_tokens__weight": 100, "model__layers__0__mlp__weight": 40}
    tied = folder_with(tmp_path, {}, **parts)
    assert weights_read(tied, tied=True) == 140
    assert weights_read(tied, tied=False) == 40
    both = folder_with(tmp_path, {}, **parts, lm_head__weight=100)
    assert weights_read(both, tied=False) == 140
    assert weights_read(both, tied=True) == 140, "stored twice, read once"
    eyes = folder_with(tmp_path, {}, **parts, model__vision_tower__weight=7)
    assert weights_read(eyes, tied=True) == 140


def test_packed_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    """The 4-bit form: two weights a byte, and a scale for each group."""
    config = QWEN3_8B | {"tie_word_embeddings": True}
    packed = {
        "model__layers__0__q_proj__weight_packed": 4096 * 4096 // 2,
        "model__layers__0__q_proj__weight_scale": 4096 * 32 * 2,
        "model__embed_tokens__weight": 1000,
    }
    reads = reads_of(folder_with(tmp_path, config, **packed))
    assert reads.weights == 4096 * 4096 // 2 + 4096 * 64 + 1000
    assert reads.kv_per_token == 147_456
    assert reads.step(streams=2, context=10) == reads.weights + 20 * 147_456


def test_what_is_no_model_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        reads_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no safetensors"):
        reads_of(tmp_path)
    with pytest.raises(ValueError, match="does not say 'num_attention_heads'"):
        reads_of(folder_with(tmp_path, {}, model__layers__0__mlp__weight=1))


def test_memory_is_seen_to_move() -> None:
    """Small arrays: only that it measures is tested."""
    pytest.importorskip("torch")
    assert bandwidth(array=2**20) > 1e8
