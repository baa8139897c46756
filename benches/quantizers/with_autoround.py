"""Intel's AutoRound, as `against_quantizers.py` asks each quantizer for it.

It runs in an environment of its own, where senryu is not. One argument, JSON: the `parent` folder,
`rows` of token ids (.npy), the folder `out`, `group`, `symmetric` and `iterations`. The last line
on stdout is JSON: seconds and peak memory.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


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
        batch_size=8,
        device_map="cuda:0" if torch.cuda.is_available() else "cpu",
    ).quantize_and_save(asked["out"], format="llm_compressor")
    print(json.dumps({"seconds": time.perf_counter() - begun, "peak_bytes": peak()}))


def peak() -> int:
    """The most memory that this process ever held."""
    told = Path("/proc/self/status").read_text()
    return int(told.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
