"""What the memory of a machine allows: tokens a second that no server of this model can pass.

Comes in: a model's folder, and how fast memory is read. Goes out: a ceiling for so many streams of
so many tokens. A step of decoding reads all weights once and the KV of every stream, and gives each
stream one token: with small batches nothing bounds it but memory. (Large ones may be bound by
arithmetic before; then the ceiling is still true, and not the nearest.) All is arithmetic on what
the folder says, but for `bandwidth`, which measures.
"""

import json
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KV_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}
_EMBEDDING = "embed_tokens.weight"
_HEAD = "lm_head."
# Of models that see: read when an image is, and never to write a token.
_EYES = ("vision", "visual", "multi_modal_projector", "connector.")

_REPEATS = 8
_ARRAY = 256 * 2**20
"""Bytes of an array that is copied: beyond every cache."""
_GPU_ARRAY = 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a step of decoding reads, in bytes."""

    weights: int
    """Once a step."""
    kv_per_token: int
    """For every token of every stream's context."""

    def step(self, *, streams: float, context: float) -> float:
        """Bytes that one step reads for `streams` contexts of `context` tokens."""
        return self.weights + streams * context * self.kv_per_token


def ceiling(reads: Reads, *, bandwidth: float, streams: float, context: float) -> float:
    """Output tokens a second of all streams together, with `bandwidth` bytes a second."""
    return streams * bandwidth / reads.step(streams=streams, context=context)


def mean_context(prompt: float, output: float) -> float:
    """Tokens that a stream's context holds on average while it is answered."""
    return prompt + output / 2


def percent(reached: float, most: float) -> float:
    """Of the ceiling."""
    return 100 * reached / most


def reads_of(folder: Path, *, kv_dtype: str = "auto") -> Reads:
    """Of a model folder. Raises ValueError with a sentence where it has no weights, or its config
    does not say what it caches."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} has no config.json that can be read") from error
    return Reads(
        weights=weights_read(folder, tied=_tied(config)),
        kv_per_token=kv_per_token(config, kv_dtype=kv_dtype),
    )


def weights_read(folder: Path, *, tied: bool) -> int:
    """Bytes of all tensors that a step reads. Of an embedding it reads one row a stream, which is
    next to nothing; where it is the output head too (`tied`), all of it, once."""
    total, had_head, embedding = 0, False, 0
    for name, size in _tensors(folder):
        if any(part in name for part in _EYES):
            continue
        if name.endswith(_EMBEDDING):
            embedding = size
            continue
        had_head |= _HEAD in name
        total += size
    if not total:
        raise ValueError(f"{folder} has no safetensors")
    # Some that are tied were stored with both all the same, and are loaded so.
    return total + (embedding if tied and not had_head else 0)


def _tensors(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and bytes, from the heads of the files; no weight is read."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            head = json.loads(stream.read(length))
        for name, told in head.items():
            if name != "__metadata__":
                begin, end = told["data_offsets"]
                yield name, end - begin


def kv_per_token(config: Mapping[str, Any], *, kv_dtype: str = "auto") -> int:
    """Bytes that the KV cache holds for one token, in the layers of a Llama-like model."""
    told = _text(config)
    try:
        heads = told["num_attention_heads"]
        size = told.get("head_dim") or told["hidden_size"] // heads
        each = _KV_BYTES[kv_dtype]
        return sum(2 * kv * size * each for kv in _kv_heads(told))
    except KeyError as missing:
        raise ValueError(f"config.json does not say {missing}") from missing


def _kv_heads(told: Mapping[str, Any]) -> list[int]:
    """Of each layer."""
    heads = told["num_attention_heads"]
    if blocks := told.get("block_configs"):  # layers that differ
        groups = [block["attention"].get("n_heads_in_group") for block in blocks]
        return [heads // group for group in groups if group]
    return [told.get("num_key_value_heads") or heads] * told["num_hidden_layers"]


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of models that see, the part that writes."""
    return {**config, **(config.get("text_config") or {})}


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(_text(config).get("tie_word_embeddings", False))


def bandwidth(kind: str = "cpu", *, array: int | None = None) -> float:
    """Bytes a second that this machine's memory was seen to move, reads and writes together: the
    best of several runs of a copy and, on a CPU, a triad, with all of torch's threads. On a GPU
    (`kind` is `gpu`) a copy within its own memory."""
    import torch

    device = "cuda" if kind == "gpu" else "cpu"
    count = (array or (_GPU_ARRAY if device == "cuda" else _ARRAY)) // 4
    one, two, three = (torch.ones(count, device=device) for _ in range(3))

    def seconds(triad: bool) -> float:
        begun = time.perf_counter()
        if triad:
            torch.add(one, two, alpha=3.0, out=three)
        else:
            three.copy_(one)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    best = 0.0
    for _ in range(_REPEATS):
        best = max(best, 2 * 4 * count / seconds(triad=False))
        if device == "cpu":
            best = max(best, 3 * 4 * count / seconds(triad=True))
    return best


def main() -> None:
    """`python -m senryu.benches.roofline FOLDER ...`: the ceilings of models on this machine."""
    import sys

    from senryu.server.device import detect

    device = detect()
    rate = bandwidth(device.kind)
    print(f"{device.summary}: memory at {rate / 1e9:.1f} GB/s, measured")
    for folder in sys.argv[1:]:
        reads = reads_of(Path(folder))
        alone = ceiling(reads, bandwidth=rate, streams=1, context=512)
        eight = ceiling(reads, bandwidth=rate, streams=8, context=512)
        print(
            f"{folder}: a step reads {reads.weights / 1e6:,.0f} MB of weights and "
            f"{reads.kv_per_token:,} bytes a token of context; at 512 tokens at most "
            f"{alone:,.1f} tok/s alone, {eight:,.1f} at 8 streams"
        )


if __name__ == "__main__":
    main()
