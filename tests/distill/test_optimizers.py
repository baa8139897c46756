"""Each weight has one optimizer, and vectors do not decay."""

import pytest
import torch
from lessons import short, tiny_student
from torch import nn

from senryu.distill import optimizers


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_each_weight_has_one_optimizer(name: str) -> None:
    model = tiny_student()
    made = optimizers.make(
        list(model.parameters()), model.model.layers, short(optimizer=name, weight_decay=0.1)
    )
    groups = [group for each in made for group in each.param_groups]
    held = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(held) == sorted(id(each) for each in model.parameters())
    for group in groups:
        for weight in group["params"]:
            assert group["weight_decay"] == (0.1 if weight.ndim > 1 else 0.0)


def test_muon_takes_the_matrices_between_the_layers() -> None:
    """Not the embedding, which the head shares, and not the norms."""
    model = tiny_student()
    _, muon = optimizers.make(list(model.parameters()), model.model.layers, short(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)
    assert len(muon.param_groups[0]["params"]) == 7 * len(model.model.layers)


def test_an_average_follows() -> None:
    weight = nn.Parameter(torch.zeros(3))
    mean = [torch.ones(3)]
    optimizers.follow(mean, [weight], 0.9)
    torch.testing.assert_close(mean[0], torch.full((3,), 0.9))


def test_the_rate_is_everybodys() -> None:
    model = tiny_student()
    made = optimizers.make(list(model.parameters()), model.model.layers, short(optimizer="muon"))
    optimizers.set_rate(made, 0.5)
    assert {group["lr"] for each in made for group in each.param_groups} == {0.5}


def test_an_average_soon_forgets_the_student_that_training_began_with() -> None:
    """Of a hundred steps with a decay of 0.999 nine tenths would be the broken student."""
    weight = nn.Parameter(torch.zeros(3))
    mean = [torch.ones(3)]
    for step in range(100):
        optimizers.follow(mean, [weight], optimizers.ema_decay(0.999, step))
    assert mean[0].max() < 1e-6
    assert optimizers.ema_decay(0.9, 1000) == 0.9
