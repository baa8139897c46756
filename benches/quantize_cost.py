"""What quantizing costs: seconds and memory of `senryu quantize`, and what they come to for 8B.

    python -m senryu.benches.quantize_cost             # the embedded model
    python -m senryu.benches.quantize_cost --shape 8b  # decoder layers of that size

Each run is a process of its own, so that its peak is its own. Of a shape there are two runs, with
one layer and with two: the last layer of a model is led through only once, to be measured, and the
layers before it a second time, so one alone is no measure of the others. Decoder layers follow each
other and nothing of one stays in memory, so every further layer takes as long as the second and no
more memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from senryu.server.device import detect


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a model that is made of random weights."""

    width: int
    mlp: int
    heads: int
    key_heads: int
    layers: int
    """Of the whole model."""
    tied: bool
    """Whether the head is the embedding once more."""
    vocabulary: int = 128_256
    """More than the tokenizer that lies beside it has; nothing looks at the rest."""


SHAPES = {
    "1b": Shape(width=2048, mlp=8192, heads=32, key_heads=8, layers=16, tied=True),
    "8b": Shape(width=4096, mlp=14336, heads=32, key_heads=8, layers=32, tied=False),
}
EMPTY = "import torch, transformers, safetensors, compressed_tensors"
"""What every run needs in memory before it does anything."""


def main(argv: Sequence[str] | None = None) -> int:
    """0, or the status of the command that failed."""
    parser = argparse.ArgumentParser(prog="python -m senryu.benches.quantize_cost")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size")
    parser.add_argument("words", nargs="*", help="more words for senryu quantize, behind --")
    arguments = parser.parse_args(argv)
    libraries = _run([sys.executable, "-c", EMPTY])["peak_bytes"]
    runs = []
    for layers in (None,) if arguments.shape is None else (1, 2):
        with tempfile.TemporaryDirectory(prefix="senryu-cost-") as place:
            model = _embedded() if layers is None else _made(Path(place), arguments.shape, layers)
            size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
            words = [str(model), "--out", f"{place}/out", *arguments.words]
            spent = _run([sys.executable, "-m", "senryu.quant", *words])
        runs.append({"layers": layers, **spent, "model_bytes": size})
        print(_sentence(runs[-1]), flush=True)
    print(f"Of the peaks {_mb(libraries)} are the libraries'.")
    record: dict[str, Any] = {
        "bench": "quantize cost",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect(os.environ).summary,
        "torch": metadata.version("torch"),
        "model": arguments.shape or "embedded",
        "words": arguments.words,
        "runs": runs,
        "libraries_bytes": libraries,
        "peak_bytes": runs[-1]["peak_bytes"],
    }
    if arguments.shape is not None:
        count = SHAPES[arguments.shape].layers
        seconds = whole_seconds(runs[0]["seconds"], runs[1]["seconds"], count)
        record["whole_model"] = {"layers": count, "hours": round(seconds / 3600, 2)}
        hours = record["whole_model"]["hours"]
        print(f"All {count} layers: about {hours} h on this machine")
    print(json.dumps(record))
    return 0


def whole_seconds(one: float, two: float, layers: int) -> float:
    """Of a model with so many layers, from the seconds of runs with one and with two."""
    return one + (layers - 1) * (two - one)


def _run(command: list[str]) -> dict[str, Any]:
    """Seconds, seconds of CPU and peak bytes of a process and its children."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(child.returncode)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_bytes": used.ru_maxrss * 1024,
    }


def _embedded() -> Path:
    command = [sys.executable, "-m", "senryu.quant", "embedded", "--scheme", "bf16"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def _made(place: Path, shape: str, layers: int) -> Path:
    """A folder of `_random`. It is made in a process of its own: a child's peak begins at what its
    parent holds when it is started, and this model would be in all of ours."""
    folder = place / "model"
    asked = (folder, SHAPES[shape], layers, _embedded())
    child = multiprocessing.get_context("spawn").Process(target=_random, args=asked)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)
    return folder


def _random(folder: Path, shape: Shape, layers: int, tokenizer_of: Path) -> None:
    """Fill a folder with decoder layers of random weights, under a tokenizer of another model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        tie_word_embeddings=shape.tied,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sentence(run: dict[str, Any]) -> str:
    what = {None: "the whole model", 1: "1 layer", 2: "2 layers"}[run["layers"]]
    return (
        f"{what}: {run['seconds']:.0f} s, {run['cpu_seconds']:.0f} s of CPU; "
        f"peak {_mb(run['peak_bytes'])}; the folder has {_mb(run['model_bytes'])}"
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
