"""Promises of `quant/parent.py`: the very weights, a module at a time, or one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_kinds import WORDS, tiny, tiny_folder

from senryu.quant.errors import QuantizeError
from senryu.quant.parent import INDEX, SINGLE, linear_layers, open_parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "many", shard="40KB")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def changed(folder: Path, **told: Any) -> Path:
    """With other words in its config; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | told
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(QuantizeError) as refused:
        open_parent(folder).skeleton()
    said = str(refused.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_the_skeleton_has_every_module_and_no_weight(folder: Path) -> None:
    model = open_parent(folder).skeleton()
    whole = tiny()
    assert [name for name, _ in model.named_modules()] == [n for n, _ in whole.named_modules()]
    assert all(each.is_meta for each in model.parameters())
    assert not any(each.is_meta for each in model.buffers())


def test_a_module_is_given_its_very_weights_and_no_other_is(folder: Path) -> None:
    parent, whole = open_parent(folder), tiny()
    model = parent.skeleton()
    parent.load(model.model.layers[1], "model.layers.1")
    for name, each in model.named_parameters():
        assert each.is_meta is not name.startswith("model.layers.1.")
        if not each.is_meta:
            assert torch.equal(each, whole.get_parameter(name))
            assert not each.requires_grad


def test_how_the_files_are_cut_does_not_matter(folder: Path, sharded: Path) -> None:
    one, many = open_parent(folder), open_parent(sharded)
    assert len(set(many.files.values())) > 2
    assert set(one.files) == set(many.files)
    for name in one.files:
        assert torch.equal(one.tensor(name), many.tensor(name))


def test_weights_in_32_bits_come_in_16(copy: Path) -> None:
    wide = {name: each.float() for name, each in load_file(copy / SINGLE).items()}
    save_file(wide, copy / SINGLE, {"format": "pt"})
    parent = open_parent(changed(copy, dtype="float32"))
    assert parent.tensor("model.norm.weight").dtype == torch.float32
    assert torch.equal(parent.plain("model.norm.weight"), tiny().model.norm.weight)


def test_what_is_changed_in_memory_does_not_change_the_file(copy: Path) -> None:
    before = (copy / SINGLE).read_bytes()
    parent = open_parent(copy)
    model = parent.skeleton()
    parent.load(model.model.layers[0], "model.layers.0")
    model.model.layers[0].mlp.up_proj.weight.zero_()
    assert (copy / SINGLE).read_bytes() == before


def test_weights_that_are_shared_count_once(folder: Path, tmp_path: Path) -> None:
    assert open_parent(folder).parameters() == sum(each.numel() for each in tiny().parameters())
    apart = tiny_folder(tmp_path / "apart", tie_word_embeddings=False)
    assert open_parent(apart).parameters() == open_parent(folder).parameters() + 64 * WORDS


def test_the_head_is_no_layer_to_quantize(folder: Path) -> None:
    names = linear_layers(open_parent(folder).skeleton())
    assert len(names) == 3 * 7
    assert names[0] == "model.layers.0.self_attn.q_proj"
    assert not [name for name in names if "lm_head" in name]


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    assert "is not a model folder, it has no config.json" in refusal(tmp_path)


def test_a_folder_without_safetensors_says_what_is_wanted(copy: Path) -> None:
    (copy / SINGLE).unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    assert "give a folder whose weights are safetensors files" in refusal(copy)


def test_a_quantized_model_is_not_quantized_again(copy: Path) -> None:
    changed(copy, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "is stored as gptq-int4: quantize the 16-bit model that it was made of" in refusal(copy)


def test_a_config_that_does_not_name_its_type_is_taken(copy: Path) -> None:
    open_parent(changed(copy, dtype=None)).skeleton()


@pytest.mark.parametrize("content", [b"\xff" * 64, b"", b"short"])
def test_a_damaged_file_is_named(copy: Path, content: bytes) -> None:
    (copy / SINGLE).write_bytes(content)
    assert f"{copy / SINGLE} is damaged (" in refusal(copy)


def test_a_shard_that_was_cut_off_is_named(sharded: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sharded, tmp_path / "copy"))
    parent = open_parent(copy)
    file = copy / parent.files["model.layers.1.mlp.up_proj.weight"]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(QuantizeError) as refused:
        parent.load(parent.skeleton().model.layers[1], "model.layers.1")
    assert f"{file} is damaged (" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_shard_that_is_missing_is_named_before_any_work(sharded: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sharded, tmp_path / "copy"))
    (lost := sorted(copy.glob("*.safetensors"))[1]).unlink()
    assert f"{lost} is missing: copy or fetch the model again." == refusal(copy)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": 3}'])
def test_a_damaged_index_is_named(copy: Path, content: str) -> None:
    (copy / INDEX).write_text(content)
    assert f"{copy / INDEX} is damaged (" in refusal(copy)


def test_a_layerwise_student_is_served_as_it_is(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "nemotron-nas", "dtype": "bfloat16"}')
    assert "bf16 only: serve it as it is" in refusal(copy)


def test_a_model_that_transformers_does_not_know_is_one_sentence(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "nobody-knows", "dtype": "bfloat16"}')
    assert "transformers knows, with all its files" in refusal(copy)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "phi", "t5"])
def test_a_model_whose_layers_are_elsewhere_is_refused_by_its_kind(copy: Path, kind: str) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": kind, "dtype": "bfloat16"}))
    said = refusal(copy)
    assert f"is a {kind} model, whose layers are not where" in said or "cannot be loaded" in said


def test_weights_that_are_named_otherwise_are_refused_by_name(copy: Path) -> None:
    weights = load_file(copy / SINGLE)
    weights["model.layers.1.mlp.up.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / SINGLE, {"format": "pt"})
    assert "holds no weight model.layers.1.mlp.up_proj.weight" in refusal(copy)


def test_a_head_that_is_not_shared_has_to_be_there(copy: Path) -> None:
    open_parent(copy).skeleton()
    assert "holds no weight lm_head.weight" in refusal(changed(copy, tie_word_embeddings=False))
