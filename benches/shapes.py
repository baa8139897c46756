"""Models of known shapes and random weights: what they cost to run is true, what they say is noise.

Comes in: the name of a shape, a scheme, a folder that has a tokenizer. Goes out: a model folder.
Greedy answers never end before `max_tokens`, and each of their tokens can be seen: one that ends an
answer, is blank, or is a part of a character has a row of zeros in the output head, and so a score
of nought in every step, which the highest of many random ones passes.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["bf16", "w4a16"]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WINDOW = 8192
_SPREAD = 0.02
"""Standard deviation of the weights."""
_INT4_SPREAD = 4.6
"""The one of the whole numbers from -8 to 7, each as likely as the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Llama-like model."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int | None
    """None: the tokenizer's."""
    tied: bool
    group: int = 128
    """Of 4-bit weights that share a scale."""


SHAPES = {
    # So small that a step costs next to nothing: what is left is the road to the engine.
    "tiny": Shape(
        layers=2,
        width=64,
        ffn=128,
        heads=2,
        kv_heads=1,
        head_size=32,
        vocabulary=None,
        tied=False,  # one whose head is its embedding says the last word again and again
        group=32,
    ),
    "4b": Shape(  # as Qwen3-4B
        layers=36,
        width=2560,
        ffn=9728,
        heads=32,
        kv_heads=8,
        head_size=128,
        vocabulary=151_936,
        tied=True,
    ),
    "8b": Shape(  # as Llama-3.1-8B
        layers=32,
        width=4096,
        ffn=14_336,
        heads=32,
        kv_heads=8,
        head_size=128,
        vocabulary=128_256,
        tied=False,
    ),
}


def make(
    shape: Shape, folder: Path, tokenizer_of: Path, *, scheme: Scheme = "bf16", device: str = "cpu"
) -> Path:
    """Writes the model into `folder`: a file a layer, each made on `device`. The same bytes every
    time on one kind of device."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER:
        if (tokenizer_of / name).exists():
            shutil.copy(tokenizer_of / name, folder)
    vocabulary, silent, end = _words(tokenizer_of)
    rows = shape.vocabulary or vocabulary
    silent = [*silent, *range(vocabulary, rows)]  # beyond the tokenizer nothing is text
    torch.manual_seed(0)
    where: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_files(shape, rows, silent, scheme, device)):
        file = f"model-{number:03}.safetensors"
        save_file({name: each.cpu() for name, each in tensors.items()}, folder / file)
        where |= dict.fromkeys(tensors, file)
        total += sum(each.nbytes for each in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = _config(shape, rows, end, scheme)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def _words(tokenizer_of: Path) -> tuple[int, list[int], int]:
    """How many tokens there are, which of them nobody would see, and which one ends an answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    unseen = [
        number
        for number, text in enumerate(texts)
        if number in special or not text.strip() or "\ufffd" in text
    ]
    return len(tokenizer), unseen, tokenizer.eos_token_id


def _files(
    shape: Shape, rows: int, silent: Sequence[int], scheme: Scheme, device: str
) -> Iterator["dict[str, Tensor]"]:
    """What goes into each file."""
    import torch

    def random(*sizes: int) -> "Tensor":
        made = torch.empty(*sizes, dtype=torch.bfloat16, device=device)
        return made.normal_(std=_SPREAD)

    def ones() -> "Tensor":
        return torch.ones(shape.width, dtype=torch.bfloat16, device=device)

    head = random(rows, shape.width)
    head[torch.tensor(silent, device=device)] = 0
    outer = {"model.embed_tokens.weight": head, "model.norm.weight": ones()}
    if not shape.tied:
        outer |= {"model.embed_tokens.weight": random(rows, shape.width), "lm_head.weight": head}
    yield outer
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    linear = {
        "self_attn.q_proj": (queries, shape.width),
        "self_attn.k_proj": (keys, shape.width),
        "self_attn.v_proj": (keys, shape.width),
        "self_attn.o_proj": (shape.width, queries),
        "mlp.gate_proj": (shape.ffn, shape.width),
        "mlp.up_proj": (shape.ffn, shape.width),
        "mlp.down_proj": (shape.width, shape.ffn),
    }
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        tensors = {
            f"{layer}.{norm}.weight": ones()
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        for name, (outputs, inputs) in linear.items():
            if scheme == "bf16":
                tensors[f"{layer}.{name}.weight"] = random(outputs, inputs)
            else:
                packed = _packed(outputs, inputs, shape.group, device)
                tensors |= {f"{layer}.{name}.{part}": each for part, each in packed.items()}
        yield tensors


def _packed(outputs: int, inputs: int, group: int, device: str) -> "dict[str, Tensor]":
    """Random 4-bit weights, eight in a whole number, and one scale for all groups."""
    import torch

    limits = torch.iinfo(torch.int32)
    scale = torch.full((outputs, inputs // group), _SPREAD / _INT4_SPREAD, dtype=torch.bfloat16)
    return {
        "weight_packed": torch.randint(
            limits.min, limits.max, (outputs, inputs // 8), dtype=torch.int32, device=device
        ),
        "weight_scale": scale,
        "weight_shape": torch.tensor([outputs, inputs]),
    }


def _config(shape: Shape, rows: int, end: int, scheme: Scheme) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "vocab_size": rows,
        "max_position_embeddings": _WINDOW,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied,
        "eos_token_id": end,
        "dtype": "bfloat16",
    }
    if scheme == "w4a16":
        weights = {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": shape.group,
        }
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }
    return config


def main() -> None:
    """`python -m senryu.benches.shapes NAME SCHEME FOLDER`: makes one, on a GPU where there is."""
    import sys

    import torch

    from senryu.server.engine.model_folder import EMBEDDED, find_model

    name, scheme, folder = sys.argv[1:]
    if name not in SHAPES or scheme not in ("bf16", "w4a16"):
        raise SystemExit(f"NAME is one of {', '.join(SHAPES)}, SCHEME bf16 or w4a16")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made: Scheme = "w4a16" if scheme == "w4a16" else "bf16"
    print(make(SHAPES[name], Path(folder), find_model(EMBEDDED), scheme=made, device=device))


if __name__ == "__main__":
    main()
