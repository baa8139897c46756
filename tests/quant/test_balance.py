"""Scales move between the weights of a decoder layer, and the layer goes on computing the same."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    LlamaConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.gemma.modeling_gemma import GemmaModel
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.olmo2.modeling_olmo2 import Olmo2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from senryu.quant.balance import awq, smooth
from senryu.quant.gptq import Moments, lost
from senryu.quant.grids import Integers, nearest
from senryu.quant.schemes.base import Read

LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
GRID = Integers(symmetric=True, group_size=32)

Balance = Callable[[nn.Module, dict[str, Read]], Any]
WAYS: dict[str, Balance] = {
    "awq": lambda layer, reads: awq(layer, reads, GRID),
    "smooth": smooth,
}


def tiny(kind: str = "llama", *, kv_heads: int = 2) -> PreTrainedModel:
    """One decoder layer whose norms, biases and inputs are all unlike each other."""
    torch.manual_seed(0)
    kinds: dict[str, tuple[type[PreTrainedModel], type[PreTrainedConfig], dict[str, Any]]] = {
        "llama": (LlamaModel, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        "qwen2": (Qwen2Model, Qwen2Config, {}),
        "qwen3": (Qwen3Model, Qwen3Config, {"head_dim": 32}),
        "gemma": (GemmaModel, GemmaConfig, {"head_dim": 32}),
        "olmo2": (Olmo2Model, Olmo2Config, {}),
    }
    model, config, more = kinds[kind]
    made = model(
        config(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=kv_heads,
            initializer_range=0.2,
            pad_token_id=0,
            **more,
        )
    ).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.5)
    made.embed_tokens.weight.data *= 1 + 9 * (torch.arange(64) % 13 == 0)  # features that stand out
    return made


def read(model: PreTrainedModel) -> dict[str, Read]:
    """What its linear layers read of some tokens."""
    inputs: dict[str, Tensor] = {}
    layer = model.layers[0]

    def keep(name: str) -> Callable[..., None]:
        return lambda _, told: inputs.update({name: told[0].detach().flatten(0, 1)})

    hooks = [layer.get_submodule(n).register_forward_pre_hook(keep(n)) for n in LINEARS]
    told(model)
    for hook in hooks:
        hook.remove()

    def moments(of: Tensor) -> Tensor:
        return of.T @ of / len(of)

    return {
        name: Read(
            moments=Moments(fitted=moments(x[::2]), judged=moments(x[1::2])),
            largest=x.abs().amax(dim=0),
        )
        for name, x in inputs.items()
    }


def told(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        torch.manual_seed(1)
        output: Tensor = model(torch.randint(0, 64, (4, 32))).last_hidden_state
    return output


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_the_layer_computes_the_same(way: str, kind: str, kv_heads: int) -> None:
    model = tiny(kind, kv_heads=kv_heads)
    before = told(model)
    moved = WAYS[way](model.layers[0], read(model))
    assert any(float(scale.std()) > 1e-3 for scale in moved.values())
    torch.testing.assert_close(told(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_each_input_is_divided_by_what_is_said(way: str) -> None:
    model = tiny()
    before = read(model)
    moved = WAYS[way](model.layers[0], before)
    after = read(model)
    assert set(moved) == set(LINEARS)
    for name in LINEARS:
        expected = before[name].divided(moved[name])
        torch.testing.assert_close(after[name].largest, expected.largest, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            after[name].moments.judged, expected.moments.judged, rtol=1e-3, atol=1e-4
        )


def test_values_that_heads_share_stay() -> None:
    """No column of o_proj reads such a feature alone."""
    model = tiny(kv_heads=1)
    assert "self_attn.o_proj" not in smooth(model.layers[0], read(model))


def test_a_norm_in_16_bits_loses_nothing_to_its_scales() -> None:
    """Its readers are given what it was divided by in fact."""
    model = tiny()
    before = copy.deepcopy(model.layers[0])
    reads = read(model)
    layer = model.layers[0]
    layer.input_layernorm.to(torch.bfloat16)
    before.input_layernorm.to(torch.bfloat16)
    scale = smooth(layer, reads)["self_attn.q_proj"]
    was, now = (each.input_layernorm.weight.float() for each in (before, layer))
    torch.testing.assert_close(now * scale, was, rtol=1e-6, atol=0)


def test_awq_loses_less_than_rounding_alone() -> None:
    model = tiny()
    reads = read(model)
    weights = {
        name: model.layers[0].get_submodule(name).weight.detach().clone() for name in LINEARS
    }
    moved = awq(model.layers[0], reads, GRID)
    for names in (LINEARS[:3], LINEARS[4:6]):
        alone = scaled = 0.0
        for name in names:
            judged = reads[name].moments.judged
            alone += lost(weights[name], nearest(weights[name], GRID).values(), judged)
            values = nearest(weights[name] * moved[name], GRID).values() / moved[name]
            scaled += lost(weights[name], values, judged)
        assert scaled < 0.9 * alone


def test_smoothing_meets_halfway() -> None:
    """With one half, the greatest of a feature and of its weights become equal."""
    model = tiny(kv_heads=1)
    reads = read(model)
    scale = smooth(model.layers[0], reads, 0.5)["self_attn.q_proj"]
    layers = [model.layers[0].get_submodule(name) for name in LINEARS[:3]]
    weights = torch.stack([each.weight.abs().amax(dim=0) for each in layers]).amax(dim=0)
    torch.testing.assert_close(weights, reads["self_attn.q_proj"].largest / scale)


def test_features_that_nobody_writes_or_reads_stay() -> None:
    model = tiny()
    reads = read(model)
    for name in LINEARS[:3]:
        reads[name].largest[5] = 0
        model.layers[0].get_submodule(name).weight.data[:, 7] = 0
    scale = smooth(model.layers[0], reads)["self_attn.q_proj"]
    assert scale[5] == scale[7] == 1
    assert bool(scale.isfinite().all())


def test_what_is_not_rounded_is_scaled_with_the_others() -> None:
    """A layer that stays in 16 bits reads the same norm."""
    model = tiny()
    before = told(model)
    reads = read(model)
    moved = smooth(model.layers[0], {"self_attn.q_proj": reads["self_attn.q_proj"]})
    assert set(moved) == set(LINEARS[:3])
    torch.testing.assert_close(told(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "why"),
    [("gemma", "do not simply multiply"), ("olmo2", "post_feedforward_layernorm")],
)
def test_layers_built_in_another_way_are_refused(way: str, kind: str, why: str) -> None:
    model = tiny(kind)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=why) as refused:
        WAYS[way](model.layers[0], {})
    assert "without scaling or smoothing" in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_before_the_last_projection_is_refused() -> None:
    """Scales would not pass through it."""
    model = tiny()
    model.layers[0].self_attn.attn_sub_norm = nn.RMSNorm(64)
    with pytest.raises(ValueError, match=r"attn_sub_norm in self_attn"):
        smooth(model.layers[0], {})
