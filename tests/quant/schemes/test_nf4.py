"""NF4 is what its paper says, and what other programs read from the folder.

The reference is computed here in float64 from the definition alone: sixteen quantiles of the normal
distribution, blocks of 64, scales in 8 bits in blocks of 256.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from senryu.quant.schemes import nf4
from senryu.quant.schemes.nf4 import NF4

PROMPT = list(range(20, 40))
TOKENS = 6
KEPT = ("lm_head", "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")


def main(folder: str) -> None:
    """Prints what vLLM writes with a folder, and how probable it found that."""
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        folder,
        skip_tokenizer_init=True,
        dtype="bfloat16",  # in float32 the plug-in expects half as many bytes
        enforce_eager=True,
        kv_cache_memory_bytes=2**26,
        max_model_len=256,
        distributed_executor_backend="uni",
    )
    sampling = SamplingParams(
        max_tokens=TOKENS, temperature=0, ignore_eos=True, logprobs=0, detokenize=False
    )
    (output,) = llm.generate(TokensPrompt(prompt_token_ids=PROMPT), sampling, use_tqdm=False)
    (written,) = output.outputs
    pairs = zip(written.token_ids, written.logprobs, strict=True)
    told = {
        "tokens": list(written.token_ids),
        "logprobs": [place[token].logprob for token, place in pairs],
    }
    print("RESULT", json.dumps(told), flush=True)


def levels() -> Tensor:
    """Appendix E of the paper: equally likely values on both sides of an exact zero."""
    end = 1 - (1 / 30 + 1 / 32) / 2
    bell = NormalDist()

    def side(count: int) -> list[float]:
        return [bell.inv_cdf(end + (0.5 - end) * step / count) for step in range(count)]

    found = sorted([*side(8), 0.0, *(-each for each in side(7))])
    return torch.tensor(found, dtype=torch.float64) / found[-1]


def reference(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Codes and values, float64, of what lies in a folder."""
    (told,) = (each for name, each in tensors.items() if "quant_state" in name)
    state = json.loads(bytes(told.tolist()))
    packed = tensors["weight"].flatten().long()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    nested = tensors["weight.nested_absmax"].double().repeat_interleave(256)
    eighths = tensors["weight.nested_quant_map"].double()[tensors["weight.absmax"].long()]
    scale = eighths * nested[: len(eighths)] + state["nested_offset"]
    scales = scale.repeat_interleave(64)[: len(codes)]
    return codes.view(shape), (levels()[codes] * scales).view(shape)


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def stored(weight: Tensor) -> Any:
    return NF4().store({"it": weight}, None)["it"]


@pytest.mark.parametrize("shape", [(64, 64), (192, 576), (3, 50)])
def test_values_are_what_the_paper_says(shape: tuple[int, int]) -> None:
    found = stored(matrix(*shape).bfloat16())
    _, values = reference(found.tensors, shape)
    assert found.values.shape == shape
    # They are computed in bf16, which has eight bits.
    assert torch.allclose(found.values.double(), values, rtol=2.0**-8, atol=1e-9)


def test_each_weight_takes_the_nearest_level() -> None:
    weight = matrix(64, 256).bfloat16()
    codes, values = reference(stored(weight).tensors, (64, 256))
    largest = weight.double().view(-1, 64).abs().amax(dim=1, keepdim=True)
    units = (weight.double().view(-1, 64) / largest).view(64, 256, 1)
    nearest = (units - levels()).abs().argmin(dim=-1)
    assert (codes == nearest).double().mean() > 0.999  # a tie may go either way
    assert (values - weight.double()).norm() < 0.1 * weight.double().norm()


def test_a_weight_takes_less_than_4_14_bits() -> None:
    weight = matrix(576, 1536)
    tensors = stored(weight).tensors
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    assert size * 8 / weight.numel() < 4.14


def test_nothing_comes_back_as_nothing() -> None:
    assert not stored(torch.zeros(64, 64)).values.any()


def test_the_values_of_a_folder_are_those_that_were_stored() -> None:
    found = stored(matrix(96, 160))
    assert torch.equal(nf4.values(dict(found.tensors)), found.values)


def test_layers_that_come_together_are_stored_apart(tmp_path: Path) -> None:
    """Each has a state of its own: a file refuses tensors that share memory."""
    weights = {name: matrix(64, 64, seed) for seed, name in enumerate(("q_proj", "k_proj"))}
    found = NF4().store(weights, None)
    save_file(
        {f"{name}.{part}": each for name in found for part, each in found[name].tensors.items()},
        tmp_path / "model.safetensors",
    )
    for name, weight in weights.items():
        assert torch.equal(found[name].values, stored(weight).values)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (torch.full((64, 64), float("nan")), "infinite or undefined"),
        (torch.zeros(3, 5), "does not fill whole bytes"),
        (torch.zeros(64), "does not fill whole bytes"),
    ],
)
def test_a_weight_without_codes_is_refused(weight: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stored(weight)


def test_the_config_names_kept_layers_also_as_vllm_fuses_them() -> None:
    told = NF4().config(["lm_head", "model.layers.0.self_attn.k_proj"])
    assert json.loads(json.dumps(told))["quant_method"] == "bitsandbytes"
    assert (told["load_in_4bit"], told["bnb_4bit_quant_type"]) == (True, "nf4")
    assert told["bnb_4bit_use_double_quant"] is True
    assert told["llm_int8_skip_modules"] == [
        "lm_head",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.self_attn.qkv_proj",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in NF4, one pair of its layers kept in bf16."""
    return write(tmp_path_factory.mktemp("nf4"), KEPT)


def write(folder: Path, kept: Sequence[str]) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM(config).bfloat16()
    scheme = NF4()
    tensors = {name: each.clone() for name, each in model.state_dict().items()}
    del tensors["lm_head.weight"]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in kept:
            weight = tensors.pop(f"{name}.weight")
            for part, each in scheme.store({name: weight}, None)[name].tensors.items():
                tensors[f"{name}.{part}"] = each
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    told = {**config.to_dict(), "quantization_config": scheme.config(kept)}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def opened(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def plain(folder: Path) -> Any:
    """The same weights in an ordinary model, in float32."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in KEPT:
            parts = {
                full.removeprefix(f"{name}."): tensors.pop(full)
                for full in list(tensors)
                if full.startswith(f"{name}.")
            }
            tensors[f"{name}.weight"] = nf4.values(parts)
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def test_transformers_computes_with_what_was_stored(folder: Path) -> None:
    model = opened(folder)
    assert type(model.model.layers[1].mlp.up_proj) is nn.Linear
    assert type(model.model.layers[0].mlp.up_proj) is not nn.Linear
    with torch.no_grad():
        found = model(torch.tensor([PROMPT])).logits
        expected = plain(folder)(torch.tensor([PROMPT])).logits
    # On some CPUs the library multiplies in bf16.
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_an_adapter_learns_on_the_frozen_codes(folder: Path) -> None:
    """What QLoRA does: gradients pass through 4-bit weights, down to a pair of thin matrices."""
    # To a model that does not train, the library gives another layout when a CPU has one.
    model = opened(folder).train()
    model.requires_grad_(False)
    layer = model.model.layers[0].mlp.down_proj
    before = layer.weight.detach().clone()
    down = nn.Parameter(matrix(4, 128))
    up = nn.Parameter(torch.zeros(64, 4))
    layer.register_forward_hook(lambda _, inputs, output: output + inputs[0] @ down.T @ up.T)
    rows = torch.tensor([PROMPT, PROMPT[::-1]])
    chosen = torch.optim.Adam([down, up], lr=0.05)
    losses = []
    for _ in range(12):
        chosen.zero_grad()
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        losses.append(loss.item())
        assert up.grad is not None
        assert bool(up.grad.isfinite().all())
        assert bool(up.grad.any())
        chosen.step()
    assert losses[-1] < losses[0]
    assert torch.equal(layer.weight, before)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the engine imports is not ours
def test_vllm_computes_with_what_was_stored(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    pytest.importorskip("vllm_bnb_plugin", reason="vLLM reads this format through it")
    said = tmp_path / "said.txt"
    here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    with said.open("w") as file:
        done = subprocess.run(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **here, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    lines = said.read_text().splitlines()
    assert done.returncode == 0, "\n".join(lines[-40:])
    (told,) = (json.loads(line.removeprefix("RESULT ")) for line in lines if "RESULT" in line)
    row = torch.tensor([PROMPT + told["tokens"]])
    with torch.no_grad():
        logits = plain(folder)(row).logits[0, len(PROMPT) - 1 : -1]
    expected = torch.log_softmax(logits, dim=-1)
    for place, (token, logprob) in enumerate(zip(told["tokens"], told["logprobs"], strict=True)):
        assert logprob == pytest.approx(float(expected[place, token]), abs=0.1)
        assert logprob == pytest.approx(float(expected[place].max()), abs=0.1)


if __name__ == "__main__":
    main(sys.argv[1])
