"""Each scheme on the real engine: vLLM computes the weights that a folder's tensors stand for.

A tiny Llama with random weights is stored by each scheme, vLLM reads the folder and says how
probable it finds the tokens of a prompt, and transformers says so of the weights that the scheme
said it stored. Starting vLLM is imports for the most part, so one process opens all folders one
after the other (this file, run as a program).
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROMPT = [(7 * at * at + 3 * at) % 500 for at in range(64)]
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
LAYERS = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

ON_CPU = {
    "w8a8": 0.05,
    "w8a8-kv": 0.15,  # keys and values in 8 bits, which the comparison does without
}
ON_GPU = {
    "w8a8": 0.05,
    "fp8": 0.15,
    "w4a8-fp8": 0.15,
    "nvfp4": 0.6,  # inputs in 4 bits, which the comparison does without
    "nvfp4a16": 0.05,
    "mxfp4": 0.6,
    "mxfp4a16": 0.05,
}
"""By how many nats the two may differ, in the mean of all tokens."""


def main(folders: list[str]) -> None:
    """Prints, for each folder, the log-probabilities of the prompt's tokens after the first."""
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    for folder in folders:
        gc.freeze()  # vLLM collects garbage at each step of its start, of all that was imported
        llm = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enforce_eager=True,
            kv_cache_memory_bytes=2**26,
            max_model_len=256,
            distributed_executor_backend="uni",
        )
        (output,) = llm.generate(TokensPrompt(prompt_token_ids=PROMPT), sampling, use_tqdm=False)
        places = zip(PROMPT[1:], output.prompt_logprobs[1:], strict=True)
        print("RESULT", json.dumps([place[token].logprob for token, place in places]), flush=True)
        del llm
        destroy_model_parallel()
        destroy_distributed_environment()


def scheme(name: str) -> Any:
    from senryu.quant.schemes.fp8 import Fp8Scheme
    from senryu.quant.schemes.mxfp4 import MxFp4Scheme
    from senryu.quant.schemes.nvfp4 import NvFp4Scheme
    from senryu.quant.schemes.w4a8_fp8 import W4A8Fp8
    from senryu.quant.schemes.w8a8 import W8A8

    made: dict[str, Callable[[], Any]] = {
        "w8a8": W8A8,
        "fp8": Fp8Scheme,
        "w4a8-fp8": W4A8Fp8,
        "nvfp4": NvFp4Scheme,
        "nvfp4a16": lambda: NvFp4Scheme(activations=False),
        "mxfp4": MxFp4Scheme,
        "mxfp4a16": lambda: MxFp4Scheme(activations=False),
    }
    return made[name]()


def tiny() -> Any:
    """All sides are multiples of 128, as the most demanding of the kernels wants them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    # Rounded to bfloat16, as vLLM will read what stays in 16 bits, but computed in float32.
    return LlamaForCausalLM(config).to(torch.bfloat16).float().eval()


def seen(model: Any, layer: Any) -> tuple[dict[str, Any], float, float]:
    """What its linear layers read of the prompt; its greatest key (with the rotation) and value."""
    import torch

    from senryu.quant.gptq import Moments
    from senryu.quant.schemes.base import Read

    reads: dict[str, Any] = {}
    greatest: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        def kept(_: Any, told: Any, output: Any) -> None:
            x = told[0][0]
            moments = Moments(fitted=x[::2].T @ x[::2] / 32, judged=x[1::2].T @ x[1::2] / 32)
            reads[name] = Read(moments=moments, largest=x.abs().amax(dim=0))
            greatest[name] = float(output.abs().max())

        return kept

    names = [name for group in GROUPS for name in group]
    hooks = [layer.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(torch.tensor([PROMPT]))
    for hook in hooks:
        hook.remove()
    return reads, greatest["self_attn.k_proj"] * 2**0.5, greatest["self_attn.v_proj"]


def store(name: str, folder: Path) -> list[float]:
    """Write the tiny model by a scheme; what transformers thinks of the weights that it stands
    for."""
    import torch
    from safetensors.torch import save_file

    from senryu.quant import kv_cache

    chosen = scheme(name.removesuffix("-kv"))
    model = tiny()
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(model.model.layers):
        reads, key, value = seen(model, layer)
        for moved, by in chosen.balance(layer, reads).items():
            reads[moved] = reads[moved].divided(by)
        prefix = f"model.layers.{index}."
        if name.endswith("-kv"):
            scales = kv_cache.kv_scales(key, value)
            tensors |= {f"{prefix}self_attn.{each}": scales[each] for each in scales}
        for group in GROUPS:
            weights = {each: layer.get_submodule(each).weight.detach() for each in group}
            for each, stored in chosen.store(weights, reads[group[0]]).items():
                layer.get_submodule(each).weight.data.copy_(stored.values)
                tensors |= {f"{prefix}{each}.{last}": t for last, t in stored.tensors.items()}
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.to(torch.bfloat16).float()
    for each, value in model.state_dict().items():
        if "proj" not in each and each != "lm_head.weight":
            tensors[each] = value.to(torch.bfloat16)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config["quantization_config"] = chosen.config(["lm_head"])
    if name.endswith("-kv"):
        config["quantization_config"]["kv_cache_scheme"] = kv_cache.scheme()
    config |= {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPT])).logits[0, :-1].log_softmax(dim=-1)
    return [float(logprobs[at, token]) for at, token in enumerate(PROMPT[1:])]


def told(names: list[str], root: Path, environment: dict[str, str]) -> dict[str, list[list[float]]]:
    """What transformers and vLLM think of the prompt, for each scheme."""
    expected = {name: store(name, root / name) for name in names}
    said = root / "output.txt"  # a pipe that nobody reads would fill up
    with said.open("w") as file:
        status = subprocess.run(
            [sys.executable, __file__, *(str(root / name) for name in names)],
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    lines = said.read_text().splitlines()
    assert status == 0, "\n".join(lines)[-3000:]
    results = [json.loads(each[7:]) for each in lines if each.startswith("RESULT ")]
    return {n: [expected[n], found] for n, found in zip(names, results, strict=True)}


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    return told(list(ON_CPU), tmp_path_factory.mktemp("schemes"), environment)


def machine() -> str:
    import torch

    capability = torch.cuda.get_device_capability()
    if capability >= (9, 0):
        return "hopper" if capability[0] == 9 else "blackwell"
    return "ada" if capability >= (8, 9) else "ampere"


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    names = [name for name in ON_GPU if machine() in scheme(name).runs_on]
    here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return told(names, tmp_path_factory.mktemp("schemes"), here)


def difference(pair: list[list[float]]) -> float:
    return sum(abs(ours - theirs) for ours, theirs in zip(*pair, strict=True)) / len(pair[0])


@pytest.mark.vllm
@pytest.mark.parametrize("name", ON_CPU)
def test_a_cpu_computes_what_was_stored(name: str, on_cpu: dict[str, list[list[float]]]) -> None:
    assert difference(on_cpu[name]) < ON_CPU[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_a_gpu_computes_what_was_stored(name: str, on_gpu: dict[str, list[list[float]]]) -> None:
    if name not in on_gpu:
        pytest.skip(f"{name} has no kernel on {machine()}")
    assert difference(on_gpu[name]) < ON_GPU[name]


if __name__ == "__main__":
    main(sys.argv[1:])
