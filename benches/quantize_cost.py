"""What quantizing costs: seconds and memory of `senryu quantize`, and what they come to for 8B.

    python -m senryu.benches.quantize_cost             # the embedded model
    python -m senryu.benches.quantize_cost --shape 8b  # one decoder layer of that size

Each run is a process of its own, so that its peak is its own. Decoder layers follow each other and
nothing of one stays in memory, so a model of n layers takes n times as long as one, and as much
memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from senryu.server.device import detect

SHAPES = {
    # width, width of the MLP, heads, heads of keys and values, layers of the whole model
    "1b": (2048, 8192, 32, 8, 16),
    "8b": (4096, 14336, 32, 8, 32),
}
EMPTY = "import torch, transformers, safetensors, compressed_tensors"
"""What every run needs in memory before it does anything."""


def main(argv: Sequence[str] | None = None) -> int:
    """0, or the status of the command that failed."""
    parser = argparse.ArgumentParser(prog="python -m senryu.benches.quantize_cost")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size, one layer")
    parser.add_argument("words", nargs="*", help="more words for senryu quantize, behind --")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="senryu-cost-") as place:
        model = _embedded() if arguments.shape is None else _random(Path(place), arguments.shape)
        before = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        libraries = _run([sys.executable, "-c", EMPTY])["peak_bytes"]
        words = ["quantize", str(model), "--out", f"{place}/out", *arguments.words]
        spent = _run([sys.executable, "-m", "senryu.quant", *words[1:]])
    record: dict[str, Any] = {
        "bench": "quantize cost",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect(os.environ).summary,
        "torch": metadata.version("torch"),
        "model": arguments.shape or "embedded",
        "words": arguments.words,
        **spent,
        "libraries_bytes": libraries,
        "model_bytes": before,
        "peak_over_model": round(spent["peak_bytes"] / before, 2),
    }
    print(f"{spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} s of CPU", end="; ")
    print(
        f"peak {_mb(spent['peak_bytes'])}, of which {_mb(libraries)} are the libraries'", end="; "
    )
    print(f"the model has {_mb(before)}")
    if arguments.shape is not None:
        layers = SHAPES[arguments.shape][-1]
        record["whole_model_hours"] = round(spent["seconds"] * layers / 3600, 2)
        print(f"All {layers} layers: about {record['whole_model_hours']} h on this machine")
    print(json.dumps(record))
    return 0


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


def _random(place: Path, shape: str) -> Path:
    """A folder with one decoder layer of random weights, under the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width, mlp, heads, key_heads, _ = SHAPES[shape]
    tokenizer = AutoTokenizer.from_pretrained(_embedded())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    return place / "model"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
