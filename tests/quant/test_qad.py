"""Promises of `quant/qad.py`: the right gradient, less KL, the same grid, and no step lost."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_kinds import some_tokens, tiny
from torch import Tensor, nn

from senryu.quant.errors import QuantizeError
from senryu.quant.grids import Codes, Integers, nearest
from senryu.quant.qad import CHUNK, Quantized, Trainer, head_kl
from senryu.quant.recipe import QadRecipe

GRID = Integers(symmetric=False, group_size=32)
EVEN = Integers(symmetric=True, group_size=32)
TOKENS = some_tokens(8, 16)
RECIPE = QadRecipe(
    tokens=1280, batch_tokens=64, sequence=16, codes_rate=2e-2, scales_rate=2e-3, norms_rate=1e-3
)


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(kind: str = "llama") -> Any:
    """With weights that are large enough for it to say something."""
    return tiny(kind, initializer_range=0.1)


def trainer(
    recipe: QadRecipe = RECIPE, kind: str = "llama", grid: Any = GRID, kept: tuple[str, ...] = ()
) -> Trainer:
    parent = whole(kind).requires_grad_(False)
    student = copy.deepcopy(parent)
    codes = {
        name: nearest(module.weight, grid)
        for name, module in student.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and name not in kept
    }
    return Trainer(student, parent, codes, grid, TOKENS, recipe)


def trained(training: Trainer) -> list[float]:
    return [training.advance().kl for _ in range(training.steps - training.step)]


def same(one: Mapping[str, Codes], other: Mapping[str, Codes]) -> bool:
    return all(
        torch.equal(one[name].codes, other[name].codes)
        and torch.equal(one[name].steps.scale, other[name].steps.scale)
        for name in one.keys() | other.keys()
    )


def test_the_kl_is_that_of_the_whole_distribution_and_its_gradient_autograds() -> None:
    rows = CHUNK + 50  # more than are in memory at once
    student, parent, head = made(1, rows, 24), made(2, rows, 24), made(3, 40, 24)
    exact = student.double().requires_grad_(True)
    p = (parent.double() @ head.double().T).log_softmax(-1)
    q = (exact @ head.double().T).log_softmax(-1)
    wanted = (p.exp() * (p - q)).sum(-1).mean()
    wanted.backward()
    kl, gradient = head_kl(student, parent, head)
    assert kl == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert exact.grad is not None
    torch.testing.assert_close(gradient.double(), exact.grad, rtol=1e-4, atol=1e-8)


def test_who_says_the_same_has_nothing_to_learn() -> None:
    states, head = made(1, 8, 24), made(3, 40, 24)
    kl, gradient = head_kl(states, states, head)
    assert kl == 0
    assert not gradient.any()


@pytest.mark.parametrize("grid", [GRID, EVEN])
def test_the_gradient_passes_through_the_rounding_as_if_it_were_not_there(grid: Integers) -> None:
    """weight = (snap(units) - zero) * size: by a unit `size`, by a size the code without zero."""
    codes = nearest(made(1, 6, 64), grid)
    layer = Quantized(codes, grid, None, torch.float32)
    layer.scaled.data.copy_(made(2, 6, 2, 1) / 10)
    states, slope = made(3, 5, 64), made(4, 5, 6)
    layer(states).backward(slope)
    by_weight = (slope.T @ states).view(6, 2, 32)
    size, zero = (each[:, ::32].unsqueeze(-1) for each in codes.steps.of_columns(64))
    by_units = by_weight * size * (1 + layer.scaled.detach())
    by_scaled = ((codes.codes.view(6, 2, 32) - zero) * by_weight).sum(-1, keepdim=True) * size
    torch.testing.assert_close(layer.units.grad, by_units)
    torch.testing.assert_close(layer.scaled.grad, by_scaled)


def test_before_training_it_computes_what_is_stored() -> None:
    codes = nearest(made(1, 6, 64), GRID)
    layer = Quantized(codes, GRID, made(2, 6), torch.float32)
    states = made(3, 5, 64)
    assert torch.equal(layer(states), nn.functional.linear(states, codes.values(), made(2, 6)))
    assert torch.equal(layer.codes().values(), codes.values())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("grid", [GRID, EVEN])
def test_training_brings_the_student_nearer(kind: str, grid: Integers) -> None:
    said = trained(trainer(kind=kind, grid=grid))
    assert len(said) == 20
    assert sum(said[-4:]) < 0.75 * sum(said[:4])


def test_codes_stay_on_the_grid_and_scales_stay_positive() -> None:
    """However wildly it learns."""
    wild = QadRecipe(
        tokens=640, batch_tokens=64, sequence=16, codes_rate=5.0, scales_rate=0.8, norms_rate=0.0
    )
    training = trainer(wild)
    before = training.codes()
    trained(training)
    for name, each in training.codes().items():
        assert torch.equal(each.codes, each.codes.round().clamp(-8, 7))
        scale, old = each.steps.scale.float(), before[name].steps.scale.float()
        assert scale.isfinite().all()
        assert (scale >= 0.099 * old).all()
        assert each.steps.scale.dtype == torch.bfloat16
        assert torch.equal(each.steps.zero, before[name].steps.zero)
    assert any((each.scaled <= -0.9).any() for each in training.layers.values())


@pytest.mark.parametrize("stop", [1, 7])
def test_put_down_and_taken_up_again_nothing_is_different(stop: int) -> None:
    undisturbed = trainer()
    said = trained(undisturbed)
    first = trainer()
    heard = [first.advance().kl for _ in range(stop)]
    state = {name: each.clone() for name, each in first.state().items()}
    second = trainer()
    second.resume(state)
    assert second.step == stop
    assert heard + trained(second) == said
    assert same(second.codes(), undisturbed.codes())
    for name, each in undisturbed.norms().items():
        assert torch.equal(second.norms()[name], each)


def test_without_a_rate_the_codes_stay_and_the_scales_learn() -> None:
    training = trainer(
        QadRecipe(tokens=640, batch_tokens=64, sequence=16, codes_rate=0, scales_rate=4e-3)
    )
    before = training.codes()
    said = trained(training)
    after = training.codes()
    assert sum(said[-3:]) < sum(said[:3])
    for name in before:
        assert torch.equal(before[name].codes, after[name].codes)
    assert not same(before, after)


def test_without_a_rate_the_norms_stay() -> None:
    training = trainer(QadRecipe(tokens=128, batch_tokens=64, sequence=16, norms_rate=0))
    trained(training)
    assert not training.norms()


def test_norms_are_trained_by_their_full_names() -> None:
    training = trainer()
    trained(training)
    norms = training.norms()
    assert "model.norm.weight" in norms
    assert len(norms) == 2 * 3 + 1
    plain = whole()
    moved = [n for n in norms if not torch.equal(norms[n].bfloat16(), plain.get_parameter(n))]
    assert moved


def test_layers_that_stay_in_16_bits_and_the_parent_are_left_alone() -> None:
    kept = ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj")
    training = trainer(kept=kept)
    trained(training)
    assert not set(kept) & training.codes().keys()
    plain = whole()
    for name in kept:
        student = training._student.get_submodule(name)
        assert torch.equal(student.weight, plain.get_submodule(name).weight)
    for name, weight in training._parent.named_parameters():
        assert torch.equal(weight, plain.get_parameter(name))


def test_each_row_is_read_once_before_any_is_read_twice() -> None:
    training = trainer()
    seen = []
    for step in range(4):  # two turns of 8 rows, 4 a step
        training.step = step
        seen += training._batch().tolist()
    assert sorted(seen[:8]) == sorted(seen[8:]) == sorted(TOKENS.tolist())
    assert seen[:8] != seen[8:]


def test_a_model_that_bends_its_logits_is_refused() -> None:
    with pytest.raises(QuantizeError, match=r"gemma2 model bends its logits.*leave qad out"):
        trainer(kind="gemma2")
