"""Promises of `quant/gguf_model.py`: weights and tokenizer come out as they were trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.quant import gguf_model


def test_rotary_rows_come_back_in_halves() -> None:
    """Two heads of four rows: a0 b0 a1 b1 becomes a0 a1 b0 b1, head by head."""
    rows = torch.tensor([[0], [10], [1], [11], [100], [110], [101], [111]])
    halves = gguf_model.halves_from_pairs(rows, heads=2)
    assert halves.flatten().tolist() == [0, 1, 10, 11, 100, 101, 110, 111]


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A two-layer Llama with a made-up alphabet, written by the gguf package itself."""
    import gguf
    import numpy

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(16)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ċ", "ĊĊ", "Ġ", "1", "2", "12"]
    tokens += list("abcdefg")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 13)
    writer.add_token_merges(["Ċ Ċ", "1 2"])
    writer.add_add_space_prefix(False)
    for add, number in (
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
        (writer.add_pad_token_id, 2),
    ):
        add(number)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    random = numpy.random.default_rng(0)

    def put(name: str, *shape: int, kind: Any = None) -> None:
        values = random.standard_normal(shape).astype("float32")
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    quantized = gguf.GGMLQuantizationType.Q4_1
    put("token_embd.weight", 16, 64, kind=gguf.GGMLQuantizationType.Q8_0)
    put("output_norm.weight", 64)
    for layer in range(2):
        put(f"blk.{layer}.attn_norm.weight", 64)
        put(f"blk.{layer}.ffn_norm.weight", 64)
        put(f"blk.{layer}.attn_q.weight", 64, 64, kind=quantized)
        put(f"blk.{layer}.attn_k.weight", 32, 64, kind=quantized)
        put(f"blk.{layer}.attn_v.weight", 32, 64, kind=quantized)
        put(f"blk.{layer}.attn_output.weight", 64, 64, kind=quantized)
        put(f"blk.{layer}.ffn_gate.weight", 96, 64, kind=quantized)
        put(f"blk.{layer}.ffn_up.weight", 96, 64, kind=quantized)
        put(f"blk.{layer}.ffn_down.weight", 64, 96, kind=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_model_comes_out_whole_tied_and_ready_to_save(tiny_gguf: Path, tmp_path: Path) -> None:
    told: list[str] = []
    model, _ = gguf_model.load(tiny_gguf, told.append)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.device.type for weight in model.state_dict().values()} == {"cpu"}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(told) == 2 * 9 + 2
    assert not hasattr(model.config, "quantization_config")
    assert (model.config.rms_norm_eps, model.config.head_dim) == (1e-5, 32)
    model.save_pretrained(tmp_path / "saved")
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_saved_model_loads_with_the_same_answers(tiny_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = gguf_model.load(tiny_gguf)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    asked = torch.tensor([[1, 5, 9, 7]])
    assert torch.equal(again(asked).logits, model(asked).logits)
    assert again.config.rope_parameters["rope_theta"] == 100000.0


def test_digits_stand_alone_and_control_tokens_are_one_token(tiny_gguf: Path) -> None:
    _, tokenizer = gguf_model.load(tiny_gguf)
    assert tokenizer.tokenize("12") == ["1", "2"]
    assert tokenizer.tokenize("\n\n1") == ["ĊĊ", "1"]
    assert tokenizer.tokenize("a<|im_end|>b") == ["a", "<|im_end|>", "b"]
    assert tokenizer.eos_token_id == 2
    assert tokenizer.decode(tokenizer("ab 12\n")["input_ids"]) == "ab 12\n"


def test_the_chat_template_comes_along(tiny_gguf: Path) -> None:
    _, tokenizer = gguf_model.load(tiny_gguf)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == (
        "abc"
    )
