"""Intel's AutoRound, as `against_quantizers.py` asks each quantizer for it.

It runs in an environment of its own, where senryu is not. One argument, JSON: the `parent` folder,
`rows` of token ids (.npy), the folder `out`, `group`, `symmetric` and `iterations`. A line on
stdout is JSON: seconds, peak memory of the process and versions. What is not asked for is set as in
`quant/schemes/autoround.py`.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

VERSIONS = ("torch", "transformers", "compressed-tensors", "auto-round")


def main(words: str) -> None:
    asked = json.loads(words)
    rows = torch.from_numpy(np.load(asked["rows"]))
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(asked["parent"], dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(asked["parent"])
    tokenizer.pad_token = None  # rows are full: what looks like padding is the end of a message
    AutoRound(
        model,
        tokenizer=tokenizer,
        scheme="W4A16",
        group_size=asked["group"],
        sym=asked["symmetric"],
        iters=asked["iterations"],
        dataset=list(rows.split(1)),
        nsamples=len(rows),
        seqlen=rows.shape[1],
        batch_size=min(8, len(rows)),
        scale_dtype="bf16",  # as they are stored, so that it learns with what is kept
        device_map="cuda:0" if torch.cuda.is_available() else "cpu",
        enable_torch_compile=False,  # minutes before the first step, for small models
    ).quantize_and_save(asked["out"], format="llm_compressor")
    out = Path(asked["out"])
    for file in list(out.glob("*/*")):  # it names a folder of its own in there
        file.rename(out / file.name)
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
