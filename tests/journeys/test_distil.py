"""From a recipe to a student that can be served, by the commands that a person types.

The teacher is tiny and knows nothing; vLLM, the samples, the training and the report are real.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny_model

from senryu.quant.embedded import prepare
from senryu.server.manifest import Manifest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SUBJECTS = (
    "rivers",
    "bread",
    "trains",
    "whales",
    "chess",
    "rain",
    "maps",
    "clocks",
    "kites",
    "honey",
    "glass",
    "wool",
    "owls",
    "salt",
    "tea",
    "ink",
    "moss",
    "bells",
    "dust",
    "tides",
)
RECIPE = """
[teacher]
model = "{teacher}"
licence = "Apache-2.0"
allows_training = true
terms = "It was made for a test."
top_k = 8
streams = 16

[[prompts]]
kind = "file"
path = "asked.jsonl"

[collect]
max_tokens = 24
near_duplicates = 1.0

[student]
layers = 1

[train]
tokens = 4000
batch_tokens = 512
sequence = 256
checkpoint_steps = 4

[evaluate]
held_out = 0.3
max_samples = 6
generate = 2
max_tokens = 12
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    teacher = make_tiny_model(folder / "teacher", prepare())
    asked = (json.dumps({"prompt": f"Tell me all about {each}, please."}) for each in SUBJECTS)
    (folder / "asked.jsonl").write_text("\n".join(asked) + "\n")
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(teacher=teacher))
    return file


@pytest.fixture(scope="module")
def told(recipe: Path) -> dict[str, Any]:
    return senryu("distill", str(recipe), "--out", str(recipe.parent / "out"))


def senryu(*words: str) -> dict[str, Any]:
    """What the last line says, which is JSON, or the name of a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "senryu.server", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    return json.loads(last) if last.startswith("{") else {"folder": last}


def test_a_recipe_becomes_a_student_with_its_papers(recipe: Path, told: dict[str, Any]) -> None:
    out = recipe.parent / "out"
    made = Manifest.read(out / "student")
    assert made is not None
    made.verify(out / "student")
    assert made.licence == "Apache-2.0"
    assert "It was made for a test." in (out / "student" / "README.md").read_text()
    assert "<svg" in (out / "report.html").read_text()
    assert (out / "recipe.toml").read_text() == recipe.read_text()
    figures = json.loads((out / "evaluation.json").read_text())["summary"]
    assert figures["kl_over"] == told["kl_over"] == "vocabulary"
    assert told["kl_after"]["value"] > 0
    assert told["student"] == str(out / "student")


def test_every_prompt_was_answered_once_and_the_held_out_were_not_trained_on(
    recipe: Path, told: dict[str, Any]
) -> None:
    from senryu.distill.shards import ShardStore

    samples = list(ShardStore(recipe.parent / "out" / "samples").samples())
    assert len({each.id for each in samples}) == len(samples) <= len(SUBJECTS)
    assert 0 < sum(each.held_out for each in samples) < len(samples)
    assert all(each.top_ids.shape == (each.answer_length, 8) for each in samples)


def test_the_same_command_again_only_measures_again(recipe: Path, told: dict[str, Any]) -> None:
    out = recipe.parent / "out"
    before = (out / "student" / "model.safetensors").stat().st_mtime_ns
    again = senryu("distill", str(recipe), "--out", str(out))
    assert (out / "student" / "model.safetensors").stat().st_mtime_ns == before
    assert again["kl_after"] == told["kl_after"]


def test_the_student_becomes_smaller(recipe: Path, told: dict[str, Any]) -> None:
    packed = recipe.parent / "packed"
    assert senryu("quantize", told["student"], "--out", str(packed)) == {"folder": str(packed)}
    made = Manifest.read(packed)
    assert made is not None
    assert (made.scheme, made.licence) == ("w4a16", "Apache-2.0")
    assert (packed / "README.md").exists()
