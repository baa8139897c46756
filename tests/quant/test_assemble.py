"""Promises of `quant/assemble.py`: one folder that holds all of a model and nothing else."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_kinds import tiny, tiny_folder
from torch import Tensor

from senryu.quant.assemble import assemble
from senryu.quant.parent import Parent, open_parent

CONFIG = {"quant_method": "of a test"}


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return open_parent(tiny_folder(tmp_path / "parent"))


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Files as quantizing leaves them, with bytes of our own for weights."""
    files = []
    for index in range(3):
        prefix = f"model.layers.{index}"
        tensors = {
            f"{prefix}.mlp.up_proj.weight_packed": torch.full((4, 4), index, dtype=torch.int32),
            f"{prefix}.input_layernorm.weight": torch.full((4,), index, dtype=torch.bfloat16),
        }
        files.append(tmp_path / f"layer-{index}.safetensors")
        save_file(tensors, files[-1], {"format": "pt"})
    return files


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def stored(folder: Path) -> dict[str, Tensor]:
    """What the index names, from the files that it names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {name: load_file(folder / name) for name in set(index["weight_map"].values())}
    assert {each.name for each in folder.glob("*.safetensors")} == set(files)
    assert sum(len(each) for each in files.values()) == len(index["weight_map"])
    found = {name: files[file][name] for name, file in index["weight_map"].items()}
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in found.values())
    return found


def test_layers_and_everything_else_are_there(
    parent: Parent, layers: list[Path], out: Path
) -> None:
    assemble(out, parent, layers, CONFIG)
    found = stored(out)
    assert {name for name in found if ".layers." not in name} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }
    assert torch.equal(found["model.embed_tokens.weight"], tiny().model.embed_tokens.weight)
    assert [int(found[f"model.layers.{i}.mlp.up_proj.weight_packed"][0, 0]) for i in range(3)] == [
        0,
        1,
        2,
    ]
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config") == CONFIG
    assert config == json.loads((parent.folder / "config.json").read_text())


@pytest.mark.parametrize("links", [True, False])
def test_a_later_change_of_one_file_is_no_change_of_another(
    parent: Parent, layers: list[Path], out: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on disks where a file has one name only."""
    if not links:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    before = [file.read_bytes() for file in layers]
    assemble(out, parent, layers, CONFIG)
    assemble(out, parent, layers, CONFIG, kept=["model.layers.1.mlp.up_proj"])
    assert [file.read_bytes() for file in layers] == before
    made = sorted(out.glob("model-*.safetensors"))
    assert len(made) == 4
    for file in made:
        file.unlink()
    assert [file.read_bytes() for file in layers] == before


def test_a_full_disk_is_not_taken_for_one_without_links(
    parent: Parent, layers: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        assemble(out, parent, layers, CONFIG)


def test_what_goes_back_to_16_bits_is_the_parents(
    parent: Parent, layers: list[Path], out: Path
) -> None:
    name = "model.layers.1.mlp.up_proj"
    assemble(out, parent, layers, CONFIG, kept=[name])
    found = stored(out)
    assert f"{name}.weight_packed" not in found
    assert torch.equal(found[f"{name}.weight"], tiny().get_parameter(f"{name}.weight"))
    assert "model.layers.0.mlp.up_proj.weight_packed" in found
    assemble(out, parent, layers, CONFIG)
    assert f"{name}.weight_packed" in stored(out)


def test_what_was_found_besides_takes_its_place(
    parent: Parent, layers: list[Path], out: Path
) -> None:
    more = {
        "model.norm.weight": torch.zeros(64),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
    }
    assemble(out, parent, layers, CONFIG, more=more)
    found = stored(out)
    for name, each in more.items():
        assert torch.equal(found[name], each)


def test_words_come_along_and_weights_do_not(parent: Parent, layers: list[Path], out: Path) -> None:
    words = ("tokenizer.json", "chat_template.jinja", "README.md", "LICENSE", "vocab.txt")
    others = ("pytorch_model.bin", "tf_model.h5", "model.gguf", "pytorch_model.bin.index.json")
    ours = ("senryu.json", "report.html", ".hidden")
    for name in (*words, *others, *ours):
        (parent.folder / name).write_text(name)
    (parent.folder / "onnx").mkdir()
    assemble(out, parent, layers, CONFIG)
    there = {each.name for each in out.iterdir()}
    assert there >= set(words)
    assert not there & {*others, *ours, "onnx", "model.safetensors"}


def test_a_model_in_32_bits_becomes_one_in_16(
    parent: Parent, layers: list[Path], out: Path
) -> None:
    tiny().float().save_pretrained(parent.folder)
    assemble(out, open_parent(parent.folder), layers, CONFIG)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert stored(out)["model.embed_tokens.weight"].dtype == torch.bfloat16
