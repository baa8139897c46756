"""Promises of `quant/sensitivity.py`: each unit's loss is what the whole model loses by it."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from senryu.quant.errors import QuantizeError
from senryu.quant.grids import Integers, nearest
from senryu.quant.sensitivity import Sensitivity, Unit, find_units, measure

from .conftest import VOCABULARY, Recorder, tiny_llama

GRID = Integers(symmetric=False, group_size=32)


def tokens(rows: int = 3, length: int = 24) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def lively() -> Any:
    """Weights so large that a loss stands out from rounding, and in 32 bits: in 16 it would matter
    which sequences go together."""
    model = tiny_llama().float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return model


def linear(model: Any) -> dict[str, torch.nn.Linear]:
    return {
        name: each
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) and name != "lm_head"
    }


def rounded(model: Any) -> dict[str, torch.Tensor]:
    return {name: nearest(each.weight, GRID).values() for name, each in linear(model).items()}


def stored(model: Any) -> dict[str, int]:
    return {name: int(each.weight.numel()) // 2 for name, each in linear(model).items()}


def units_of(model: Any) -> tuple[Unit, ...]:
    return find_units(model, tokens(), stored(model))


def plainly(model: Any, unit: Unit, values: Mapping[str, torch.Tensor]) -> float:
    """The whole model, once as it is and once with the unit quantized, in one piece."""
    with torch.no_grad():
        told = model(tokens()).logits.float().log_softmax(-1)
        before = {name: model.get_submodule(name).weight.clone() for name in unit.layers}
        for name in unit.layers:
            model.get_submodule(name).weight.copy_(values[name])
        guessed = model(tokens()).logits.float().log_softmax(-1)
        for name, weight in before.items():
            model.get_submodule(name).weight.copy_(weight)
    return float((told.exp() * (told - guessed)).sum(-1).mean())


def test_layers_that_read_the_same_are_one_unit() -> None:
    units = units_of(tiny_llama())
    assert [unit.name for unit in units] == [
        "model.layers.0.self_attn qkv",
        "model.layers.0.self_attn o",
        "model.layers.0.mlp gate,up",
        "model.layers.0.mlp down",
        "model.layers.1.self_attn qkv",
        "model.layers.1.self_attn o",
        "model.layers.1.mlp gate,up",
        "model.layers.1.mlp down",
    ]
    assert units[2].layers == ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")
    weights = 2 * 64 * 96
    assert units[2].saved_bytes == 2 * weights - weights // 2


def test_layers_that_were_not_quantized_are_in_no_unit() -> None:
    model = tiny_llama()
    told = stored(model)
    for name in list(told):
        if name.startswith("model.layers.0.") or name.endswith("k_proj"):
            del told[name]
    units = find_units(model, tokens(), told)
    assert [unit.name for unit in units][:2] == [
        "model.layers.1.self_attn qv",
        "model.layers.1.self_attn o",
    ]
    assert sum(len(unit.layers) for unit in units) == len(told)


def test_from_the_hidden_states_kept_it_is_what_the_whole_model_loses() -> None:
    model = lively()
    values = rounded(model)
    units = units_of(model)
    found = measure(model, tokens(), values.__getitem__, units)
    for unit, lost in zip(units, found, strict=True):
        assert (lost.name, lost.layers, lost.saved_bytes) == (
            unit.name,
            unit.layers,
            unit.saved_bytes,
        )
        assert lost.kl > 1e-4
        assert lost.kl == pytest.approx(plainly(model, unit, values), rel=1e-3)


def test_the_size_of_the_chunks_does_not_change_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = lively()
    values = rounded(model)
    whole = measure(model, tokens(), values.__getitem__, units_of(model))
    monkeypatch.setattr("senryu.quant.sensitivity.CHUNK", 7)
    parts = measure(model, tokens(), values.__getitem__, units_of(model))
    assert [each.kl for each in parts] == pytest.approx([each.kl for each in whole], rel=1e-3)


@pytest.mark.parametrize("number", [0, 3, 5])
def test_the_unit_that_was_ruined_is_found(number: int) -> None:
    model = tiny_llama()
    values = rounded(model)
    units = units_of(model)
    for name in units[number].layers:
        noise = torch.randn(values[name].shape, generator=torch.Generator().manual_seed(2))
        values[name] = values[name] + noise
    found = measure(model, tokens(), values.__getitem__, units)
    worst = max(found, key=lambda each: each.kl)
    assert worst.name == units[number].name
    others = [each.kl for each in found if each is not worst]
    assert worst.kl > 10 * max(others)


def test_weights_that_stay_as_they_were_lose_nothing() -> None:
    model = tiny_llama()
    same = {name: each.weight.float() for name, each in linear(model).items()}
    found = measure(model, tokens(), same.__getitem__, units_of(model))
    assert [each.kl for each in found] == [0.0] * 8


def test_the_model_is_as_it_was_afterwards(recorder: Recorder) -> None:
    model = tiny_llama()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    values = rounded(model)
    units = units_of(model)
    found = measure(model, tokens(), values.__getitem__, units, recorder)
    assert all(isinstance(each, Sensitivity) for each in found)
    assert recorder.finished == len(units)
    after = model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_units_may_be_asked_for_in_any_order() -> None:
    model = tiny_llama()
    values = rounded(model)
    units = units_of(model)
    straight = measure(model, tokens(), values.__getitem__, units)
    turned = measure(model, tokens(), values.__getitem__, units[::-1])
    assert turned == straight[::-1]
    assert measure(model, tokens(), values.__getitem__, units[5:6]) == straight[5:6]


def test_a_unit_that_breaks_the_model_is_named_and_taken_out_again() -> None:
    model = tiny_llama()
    values = rounded(model)
    units = units_of(model)
    values[units[3].layers[0]] = torch.full_like(values[units[3].layers[0]], math.inf)
    before = linear(model)[units[3].layers[0]].weight.clone()
    with pytest.raises(QuantizeError, match=r"With model\.layers\.0\.mlp down quantized .* NaN"):
        measure(model, tokens(), values.__getitem__, units)
    assert torch.equal(linear(model)[units[3].layers[0]].weight, before)
