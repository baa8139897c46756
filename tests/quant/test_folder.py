"""Any Llama-like folder becomes a 4-bit folder that says what it was made of, or one sentence."""

import dataclasses
import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from senryu.quant.embedded import prepare
from senryu.quant.folder import QuantizeError, quantize_folder
from senryu.server.manifest import Manifest, describe_folder, record_files

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", prepare())


def test_the_result_is_whole_and_says_what_it_is(parent: Path, tmp_path: Path) -> None:
    out = quantize_folder(parent, tmp_path / "out")
    made = Manifest.read(out)
    assert made is not None
    made.verify(out)
    assert (made.scheme, made.group_size, made.model_id) == ("w4a16", 32, "tiny")
    assert describe_folder(out).parameters == made.parameters > 0


def test_it_is_made_once(parent: Path, tmp_path: Path) -> None:
    first = quantize_folder(parent, tmp_path / "out") / "model.safetensors"
    inode = first.stat().st_ino
    quantize_folder(parent, tmp_path / "out")
    assert first.stat().st_ino == inode


def other_weights(parent: Path, folder: Path) -> Path:
    """A model of the same shape with one weight changed."""
    shutil.copytree(parent, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("q_proj.weight"))
    weights[name] = weights[name] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_other_weights_take_the_place_of_what_was_made_before(
    parent: Path, tmp_path: Path, recorder: Any
) -> None:
    """Else a changed recipe's student would be served as the old one."""
    out = quantize_folder(parent, tmp_path / "out", progress=recorder)
    assert not recorder.sentences
    first = Manifest.read(out)
    source = other_weights(parent, tmp_path / "other")
    quantize_folder(source, out, progress=recorder)
    second = Manifest.read(out)
    assert first
    assert second
    assert first.recipe_digest
    assert second.recipe_digest not in (None, first.recipe_digest)
    assert first.files["model.safetensors"] != second.files["model.safetensors"]
    assert len(recorder.sentences) == 1
    assert "made of other weights" in recorder.sentences[0]
    second.verify(out)
    inode = (out / "model.safetensors").stat().st_ino
    quantize_folder(source, out, progress=recorder)
    assert (out / "model.safetensors").stat().st_ino == inode
    assert len(recorder.sentences) == 1


def test_another_group_size_makes_it_again(parent: Path, tmp_path: Path) -> None:
    out = quantize_folder(parent, tmp_path / "out")
    quantize_folder(parent, out, group_size=64)
    assert describe_folder(out).group_size == 64


def test_a_new_model_card_is_taken_over_without_quantizing_again(
    parent: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(parent, tmp_path / "source"))
    (source / "README.md").write_text("measured once")
    out = quantize_folder(source, tmp_path / "out")
    inode = (out / "model.safetensors").stat().st_ino
    (source / "README.md").write_text("measured twice")
    quantize_folder(source, out)
    assert (out / "model.safetensors").stat().st_ino == inode
    assert (out / "README.md").read_text() == "measured twice"
    made = Manifest.read(out)
    assert made
    made.verify(out)


def test_no_model_is_lost_to_its_own_quantizing(parent: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(parent, tmp_path / "source"))
    dataclasses.replace(describe_folder(source), files=record_files(source)).write(source)
    for out in (source, tmp_path / "." / "source"):
        with pytest.raises(QuantizeError, match="holds a model in bf16, which would be lost"):
            quantize_folder(source, out)
    assert not describe_folder(source).group_size


def test_a_source_that_is_not_what_its_manifest_says_is_refused(
    parent: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(parent, tmp_path / "source"))
    dataclasses.replace(describe_folder(source), files=record_files(source)).write(source)
    (source / "model.safetensors").write_bytes(b"short")
    with pytest.raises(QuantizeError, match=r"model\.safetensors is damaged"):
        quantize_folder(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{"),
        ("config.json", b'{"model_type": "nobody-knows", "dtype": "bfloat16"}'),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    parent: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    source = Path(shutil.copytree(parent, tmp_path / "source"))
    (source / name).write_bytes(content)
    with pytest.raises(QuantizeError, match="cannot be loaded") as refused:
        quantize_folder(source, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_error_without_words_is_named(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(QuantizeError, match=r"cannot be loaded \(KeyError\)"):
        quantize_folder(parent, tmp_path / "out")


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr("senryu.quant.export.save", fail)
    with pytest.raises(QuantizeError, match=r"(?i)cannot be written \(.*no space left.*make room"):
        quantize_folder(parent, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*.partial"))


def test_a_layerwise_student_is_served_in_bf16_only(tmp_path: Path) -> None:
    source = tmp_path / "wide"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "nemotron-nas", "dtype": "bfloat16"}')
    with pytest.raises(QuantizeError, match="served in bf16 only: serve it as it is"):
        quantize_folder(source, tmp_path / "out")


def test_a_quantized_model_is_not_quantized_again(parent: Path, tmp_path: Path) -> None:
    once = quantize_folder(parent, tmp_path / "once")
    with pytest.raises(QuantizeError, match="is stored as w4a16: quantize the 16-bit model"):
        quantize_folder(once, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_shape_that_no_kernel_takes_leaves_nothing_behind(parent: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        dtype=torch.bfloat16,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(odd)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (odd / name).write_bytes((parent / name).read_bytes())
    with pytest.raises(QuantizeError, match="multiples of 32: serve this model in bf16"):
        quantize_folder(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*.partial"))


def test_somebodys_folder_is_not_written_over(parent: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear diary")
    with pytest.raises(QuantizeError, match="is no model of ours"):
        quantize_folder(parent, mine)
    assert (mine / "diary.txt").exists()
    with pytest.raises(QuantizeError, match="is no model of ours"):
        quantize_folder(parent, mine / "diary.txt")
    assert (mine / "diary.txt").read_text() == "dear diary"
