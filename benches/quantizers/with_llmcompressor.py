"""llm-compressor's GPTQ, as `against_quantizers.py` asks each quantizer for it.

It runs in an environment of its own, where senryu is not. One argument, JSON: the `parent` folder,
`rows` of token ids (.npy), the folder `out`, `group` and `symmetric`. A line on stdout is JSON:
seconds, peak memory of the process and versions.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

VERSIONS = ("torch", "transformers", "compressed-tensors", "llmcompressor")


def main(words: str) -> None:
    asked = json.loads(words)
    rows = torch.from_numpy(np.load(asked["rows"]))
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": asked["symmetric"],
        "strategy": "group",
        "group_size": asked["group"],
    }
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(asked["parent"], dtype=torch.bfloat16)
    oneshot(
        model=model,
        dataset=DataLoader(
            [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
        ),
        recipe=GPTQModifier(
            ignore=["lm_head"],
            actorder="static",
            config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
        ),
        num_calibration_samples=len(rows),
        max_seq_length=rows.shape[1],
        pipeline="sequential",  # each layer reads what the ones before it, rounded, give
    )
    model.save_pretrained(asked["out"], save_compressed=True)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak_bytes": peak(), "versions": versions()}))


def peak() -> int:
    """The most memory that this process ever held."""
    told = Path("/proc/self/status").read_text()
    return int(told.split("VmHWM:")[1].split()[0]) * 1024


def versions() -> dict[str, str]:
    """Of what computed."""
    return {name: metadata.version(name) for name in VERSIONS}


if __name__ == "__main__":
    main(sys.argv[1])
