"""senryu's own rounding, as `against_quantizers.py` asks each quantizer for it.

One argument, JSON: the `parent` folder, `rows` of token ids (.npy), the folder `out`, `group`,
`symmetric` and `rounding`. A line on stdout is JSON: seconds, peak memory of the process and
versions.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from senryu.quant.assemble import assemble
from senryu.quant.layers import Work, quantize_layers
from senryu.quant.parent import open_parent
from senryu.quant.progress import Silent
from senryu.quant.schemes.w4a16 import W4A16

VERSIONS = ("torch", "transformers", "compressed-tensors")


def main(words: str) -> None:
    asked = json.loads(words)
    rows = torch.from_numpy(np.load(asked["rows"]))
    scheme = W4A16(
        group_size=asked["group"], symmetric=asked["symmetric"], rounding=asked["rounding"]
    )
    begun = time.perf_counter()
    out = Path(asked["out"])
    out.mkdir()
    parent = open_parent(Path(asked["parent"]))
    work = Work(out / "work")
    tokens = rows if scheme.calibrated else None
    quantize_layers(parent, scheme, tokens, work, "bench", Silent())
    layers = [work.layer(index) for index in range(parent.config.num_hidden_layers)]
    assemble(out, parent, layers, scheme.config(["lm_head"]))
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
