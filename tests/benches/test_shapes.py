"""Models of random weights have the sizes they say, and answers that last as long as they may."""

import json
from pathlib import Path

import pytest

from senryu.benches.roofline import reads_of
from senryu.benches.shapes import SHAPES, Scheme, make
from senryu.server.engine.model_folder import EMBEDDED, find_model

pytest.importorskip("torch", reason="the model packages are not installed: make setup")

TINY = SHAPES["tiny"]
LINEAR = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
"""Weights of the linear layers."""
HEAD = 49_152 * 64 * 2
NORMS = (2 * 2 + 1) * 64 * 2


@pytest.fixture(scope="module")
def tokenizer_of() -> Path:
    return find_model(EMBEDDED)


@pytest.mark.parametrize(
    ("scheme", "linear"),
    [("bf16", 2 * LINEAR), ("w4a16", LINEAR // 2 + LINEAR // 32 * 2 + 2 * 7 * 16)],
)
def test_a_shape_weighs_what_it_says(
    scheme: Scheme, linear: int, tmp_path: Path, tokenizer_of: Path
) -> None:
    reads = reads_of(make(TINY, tmp_path, tokenizer_of, scheme=scheme))
    assert reads.weights == HEAD + NORMS + linear
    assert reads.kv_per_token == 2 * 2 * 32 * 2
    config = json.loads((tmp_path / "config.json").read_text())
    assert ("quantization_config" in config) == (scheme == "w4a16")


def test_greedy_answers_never_end_early_and_every_token_shows(
    tmp_path: Path, tokenizer_of: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make(TINY, tmp_path, tokenizer_of)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    asked = torch.tensor([[1, 520, 9531, 198], [60, 23, 39614, 1141]])
    said = model.generate(asked, max_new_tokens=64, do_sample=False)[:, 4:]
    assert said.shape == (2, 64)
    assert not set(said.flatten().tolist()) & set(tokenizer.all_special_ids)
    for token in said.flatten().tolist():
        text = tokenizer.decode([token])
        assert text.strip(), "a server may leave out what is blank"
        assert "\ufffd" not in text
    assert len(set(said[0].tolist())) > 8, "it says more than one thing"


def test_what_lies_beyond_the_tokenizer_is_never_said(tmp_path: Path, tokenizer_of: Path) -> None:
    from dataclasses import replace

    from safetensors import safe_open

    wide = replace(TINY, vocabulary=50_000, tied=False, layers=1)
    make(wide, tmp_path, tokenizer_of)
    with safe_open(tmp_path / "model-000.safetensors", "pt") as file:
        head, embedding = (
            file.get_tensor(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
        )
    assert head.shape == embedding.shape == (50_000, 64)
    assert not head[49_152:].any()
    assert head[100].any()
    assert embedding[49_999].any()


def test_the_large_ones_have_as_many_parameters_as_their_names_say() -> None:
    for name, billions in (("4b", 4.0), ("8b", 8.0)):
        shape = SHAPES[name]
        assert shape.vocabulary
        inner = shape.heads * shape.head_size + shape.kv_heads * shape.head_size
        layer = 2 * shape.width * inner + 3 * shape.width * shape.ffn
        words = shape.vocabulary * shape.width * (1 if shape.tied else 2)
        assert (shape.layers * layer + words) / 1e9 == pytest.approx(billions, rel=0.02)
