"""Promises of `quant/walk.py`: what a layer reads is what the whole model would have it read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_kinds import KINDS, some_tokens, tiny, tiny_folder
from torch import Tensor, nn

from senryu.quant.parent import Parent, open_parent
from senryu.quant.walk import BATCH, Walk, begin

ROWS, LENGTH = 11, 12
CPU = torch.device("cpu")
ATTENTION = tuple(f"self_attn.{each}_proj" for each in "qkv")


def started(folder: Path, rows: int = ROWS) -> tuple[Parent, Any, Walk]:
    parent = open_parent(folder)
    model = parent.skeleton()
    return parent, model, begin(parent, model, some_tokens(rows, LENGTH), CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "llama")


def apart(one: Tensor, other: Tensor) -> float:
    """As a part of their size."""
    return float((one.float() - other.float()).norm() / other.float().norm())


def inputs_of(layer: nn.Module, walk: Walk, rows: list[int]) -> dict[str, Tensor]:
    """What each linear layer reads of some sequences, gathered plainly, in float64."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: found.update({name: inputs[0].double().flatten(0, -2)})
        )
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    layer(walk.states[rows], **walk._told[0])
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_layer_by_layer_the_states_are_the_whole_models(kind: str, tmp_path: Path) -> None:
    tokens = some_tokens(ROWS, LENGTH)
    whole = tiny(kind).model
    told = [whole(input_ids=each, output_hidden_states=True) for each in tokens.split(BATCH)]
    wanted = [torch.cat(each) for each in zip(*(one.hidden_states for one in told), strict=True)]
    parent, model, walk = started(tiny_folder(tmp_path / kind, kind))
    for index, layer in enumerate(model.model.layers):
        assert apart(walk.states, wanted[index]) < 0.02
        parent.load(layer, f"model.layers.{index}")
        walk.step(index)
        layer.to("meta")
    # The whole model's last are behind its norm.
    parent.load(model.model.norm, "model.norm")
    assert apart(model.model.norm(walk.states), wanted[-1]) < 0.02


def test_never_more_than_one_layer_has_weights(folder: Path) -> None:
    parent, model, walk = started(folder)
    assert all(each.is_meta for each in model.parameters())
    for index, layer in enumerate(model.model.layers):
        parent.load(layer, f"model.layers.{index}")
        walk.read(index)
        walk.step(index)
        there = [name for name, each in model.named_parameters() if not each.is_meta]
        assert all(name.startswith(f"model.layers.{index}.") for name in there)
        layer.to("meta")
    assert all(each.is_meta for each in model.parameters())


def test_layers_that_read_the_same_are_found(folder: Path) -> None:
    parent, model, walk = started(folder)
    parent.load(model.model.layers[0], "model.layers.0")
    groups, reads = walk.read(0)
    assert groups == [
        ATTENTION,
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ]
    assert set(reads) == {group[0] for group in groups}


def test_moments_are_the_mean_over_tokens_and_judges_are_others(folder: Path) -> None:
    """Of eleven sequences the fifth and the tenth judge."""
    parent, model, walk = started(folder)
    layer = model.model.layers[0]
    parent.load(layer, "model.layers.0")
    judges = [4, 9]
    fitted = [row for row in range(ROWS) if row not in judges]
    plain = {True: inputs_of(layer, walk, judges), False: inputs_of(layer, walk, fitted)}
    _, reads = walk.read(0)
    for name, read in reads.items():
        for judged, found in ((False, read.moments.fitted), (True, read.moments.judged)):
            told = plain[judged][name]
            wanted = told.T @ told / len(told)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
        both = torch.cat([plain[True][name], plain[False][name]])
        assert torch.equal(read.largest.double(), both.abs().amax(dim=0))


def test_a_set_too_small_to_have_judges_is_judged_by_itself(folder: Path) -> None:
    parent, model, walk = started(folder, rows=4)
    parent.load(model.model.layers[0], "model.layers.0")
    _, reads = walk.read(0)
    assert torch.equal(reads["mlp.down_proj"].moments.fitted, reads["mlp.down_proj"].moments.judged)


def test_reading_does_not_move_the_states(folder: Path) -> None:
    parent, model, walk = started(folder)
    before = walk.states.clone()
    parent.load(model.model.layers[0], "model.layers.0")
    walk.read(0)
    assert torch.equal(walk.states, before)


@torch.no_grad()
def test_a_layer_is_left_with_the_weights_that_it_has_by_then(folder: Path) -> None:
    """So that what follows is fitted to what it will read, not to what the parent would say."""
    parent, model, walk = started(folder)
    layer = model.model.layers[0]
    parent.load(layer, "model.layers.0")
    before = walk.states.clone()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        layer.get_submodule(name).weight.zero_()
    walk.step(0)
    assert torch.equal(walk.states, before)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "key"), [("llama", "k_proj"), ("qwen3", "k_norm")])
def test_the_greatest_key_and_value_are_those_that_are_cached(
    kind: str, key: str, tmp_path: Path
) -> None:
    parent, model, walk = started(tiny_folder(tmp_path / kind, kind))
    layer = model.model.layers[0]
    parent.load(layer, "model.layers.0")
    seen: dict[str, float] = {}
    for name in (f"self_attn.{key}", "self_attn.v_proj"):
        layer.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update(
                {name: max(seen.get(name, 0.0), float(output.abs().max()))}
            )
        )
    told = walk.step(0)
    assert {name: told[name] for name in seen} == seen
