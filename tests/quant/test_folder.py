"""Any Llama-like folder becomes a 4-bit folder that says what it was made of, or one sentence."""

from pathlib import Path

import pytest
import torch
from tiny_model import make_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from senryu.quant.embedded import prepare
from senryu.quant.folder import QuantizeError, quantize_folder
from senryu.server.manifest import Manifest, describe_folder

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
