"""What `senryu quantize` writes is what the real engine computes.

A tiny model goes the whole way, calibration and folder included; vLLM says how probable it finds
the tokens of a prompt, and transformers says so of the weights that the folder stands for.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import make_tiny_model

from senryu.quant.embedded import prepare
from senryu.quant.folder import quantize_folder
from senryu.quant.recipe import CalibrationRecipe, QuantizeRecipe, SchemeRecipe
from senryu.quant.restore import restore

from . import test_schemes_in_vllm as in_vllm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

RECIPES = {
    "gptq": SchemeRecipe(),
    "awq-kept": SchemeRecipe(
        scaling="awq", symmetric=True, group_size=64, keep=("*.0.mlp.up_proj", "*.1.*.o_proj")
    ),
}
FEW = CalibrationRecipe(tokens=1024, length=128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    root = tmp_path_factory.mktemp("quantized")
    parent = make_tiny_model(root / "parent", prepare(scheme="bf16"))
    return {
        name: quantize_folder(parent, root / name, QuantizeRecipe(scheme=scheme, calibration=FEW))
        for name, scheme in RECIPES.items()
    }


@pytest.fixture(scope="module")
def served(folders: dict[str, Path]) -> dict[str, list[float]]:
    """Log-probabilities from the engine; one process opens the folders one after the other."""
    here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, in_vllm.__file__, *map(str, folders.values())],
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", **here},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-3000:]
    results = [json.loads(each[7:]) for each in lines if each.startswith("RESULT ")]
    return dict(zip(folders, results, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_the_engine_computes_what_the_folder_stands_for(
    name: str, folders: dict[str, Path], served: dict[str, list[float]]
) -> None:
    model = restore(folders[name], dtype=torch.float32)
    with torch.no_grad():
        said = model(torch.tensor([in_vllm.PROMPT])).logits[0, :-1].log_softmax(dim=-1)
    ours = [float(said[at, token]) for at, token in enumerate(in_vllm.PROMPT[1:])]
    assert in_vllm.difference([ours, served[name]]) < 0.02
