"""Promises of `quant/export.py`: what it writes decodes to exactly the codes that it was given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.quant import export, rtn

from .conftest import tiny_llama, tiny_tokenizer

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

BOTH = pytest.mark.parametrize("symmetric", [True, False])


def codes_of(model: Any, symmetric: bool) -> dict[str, rtn.GroupCodes]:
    return {
        name: rtn.quantize(
            model.get_submodule(name).weight.data, group_size=32, symmetric=symmetric
        )
        for name in export.linear_layers(model)
    }


def write(folder: Path, model: Any, codes: dict[str, rtn.GroupCodes], symmetric: bool) -> list[str]:
    told: list[str] = []
    scheme = export.W4A16(group_size=32, symmetric=symmetric)
    packed = export.pack(model, scheme, lambda name, weight: codes[name], told.append)
    export.save(folder, model, tiny_tokenizer(), packed)
    return told


def read(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@BOTH
def test_the_file_unpacks_to_the_given_codes_without_the_library(
    tmp_path: Path, symmetric: bool
) -> None:
    model = tiny_llama()
    codes = codes_of(model, symmetric)
    told = write(tmp_path, model, codes, symmetric)
    stored = read(tmp_path)
    assert told == list(codes)
    for name, given in codes.items():
        assert torch.equal(unpack(stored[f"{name}.weight_packed"], dim=1), given.codes.long())
        assert torch.equal(stored[f"{name}.weight_scale"], given.scale)
        assert stored[f"{name}.weight_shape"].tolist() == list(given.codes.shape)
        assert (f"{name}.weight_zero_point" in stored) is not symmetric
        if given.zero is not None:
            zero = unpack(stored[f"{name}.weight_zero_point"], dim=0)
            assert torch.equal(zero, given.zero.long())


def unpack(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight 4-bit codes from each int32, the lowest bits first, stored plus eight."""
    nibbles = torch.stack([(packed.long() >> shift) & 15 for shift in range(0, 32, 4)], dim + 1)
    return nibbles.flatten(dim, dim + 1) - 8


@BOTH
def test_decompressing_gives_the_reference_values(tmp_path: Path, symmetric: bool) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_llama()
    codes = codes_of(model, symmetric)
    write(tmp_path, model, codes, symmetric)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded(torch.tensor([[1, 2, 3]]))  # the library decompresses at the first call
    for name, given in codes.items():
        assert torch.equal(loaded.get_submodule(name).weight, given.values().bfloat16())


def test_codes_that_are_not_the_nearest_pass_through_unchanged(tmp_path: Path) -> None:
    """GPTQ moves weights on purpose; the export must not round them back."""
    model = tiny_llama()
    codes = codes_of(model, symmetric=False)
    generator = torch.Generator().manual_seed(1)
    for name, given in codes.items():
        free = torch.randint(-8, 8, given.codes.shape, dtype=torch.int8, generator=generator)
        codes[name] = rtn.GroupCodes(codes=free, scale=given.scale, zero=given.zero)
    write(tmp_path, model, codes, symmetric=False)
    stored = read(tmp_path)
    for name, given in codes.items():
        assert torch.equal(unpack(stored[f"{name}.weight_packed"], dim=1), given.codes.long())


def test_embeddings_norms_and_head_stay_in_bf16(tmp_path: Path) -> None:
    model = tiny_llama()
    write(tmp_path, model, codes_of(model, False), False)
    stored = read(tmp_path)
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert stored["model.norm.weight"].dtype == torch.bfloat16
    assert not [name for name in stored if name.startswith("lm_head")]


def test_the_config_says_what_vllm_reads(tmp_path: Path) -> None:
    model = tiny_llama()
    write(tmp_path, model, codes_of(model, False), False)
    config = json.loads((tmp_path / "config.json").read_text())
    said = config["quantization_config"]
    weights = said["config_groups"]["group_0"]["weights"]
    assert config["dtype"] == "bfloat16"
    assert said["quant_method"] == "compressed-tensors"
    assert said["format"] == "pack-quantized"
    assert said["quantization_status"] == "compressed"
    assert said["ignore"] == ["lm_head"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 32, False)


def test_linear_layers_take_what_the_issue_allows(tmp_path: Path) -> None:
    """Asymmetric, group 32: at most 4.63 bits a weight, scales and zero points included."""
    model = tiny_llama()
    codes = codes_of(model, False)
    write(tmp_path, model, codes, False)
    stored = read(tmp_path)
    weights = sum(given.codes.numel() for given in codes.values())
    bits = sum(
        8 * tensor.nbytes
        for name, tensor in stored.items()
        if name.endswith(("weight_packed", "weight_scale", "weight_zero_point"))
    )
    assert bits / weights <= 4.63


def test_a_layer_that_no_kernel_takes_is_refused_before_anything_changes() -> None:
    model = tiny_llama(width=72)
    with pytest.raises(ValueError, match="multiples of 32: serve this model in bf16"):
        export.pack(model, export.W4A16(group_size=8, symmetric=True), lambda name, weight: weight)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_plain_bf16_is_written_without_a_quantization_note(tmp_path: Path) -> None:
    model = tiny_llama()
    export.save(tmp_path, model, tiny_tokenizer())
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(
        read(tmp_path)["model.layers.1.mlp.up_proj.weight"],
        model.model.layers[1].mlp.up_proj.weight,
    )
