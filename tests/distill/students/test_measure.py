"""Promises of `distill/students/measure.py`: what is silent counts least."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from senryu.distill.samples import Sample
from senryu.distill.students import measure


def kill(model: Any) -> None:
    layer = model.model.layers[2]
    layer.mlp.up_proj.weight[7] = 0
    layer.self_attn.v_proj.weight[:32] = 0  # the first KV head's
    model.model.embed_tokens.weight[:, 5] = 0
    for each in model.model.layers:
        each.self_attn.o_proj.weight[5] = 0
        each.mlp.down_proj.weight[5] = 0


def test_the_dead_rank_last(make_teacher: Any, open_folder: Any, calibration: list[Sample]) -> None:
    model = open_folder(make_teacher(change=kill))
    found = measure.importance(model, measure.rows_of(calibration))
    assert found.ffn[2].argmin() == 7
    assert found.heads[2].argsort()[:2].sort().values.tolist() == [0, 1]
    assert found.hidden.argmin() == 5
    assert found.heads[1].min() > 0


def test_the_energy_of_a_norm_is_shared_out(
    teacher: Path, open_folder: Any, calibration: list[Sample]
) -> None:
    found = measure.importance(open_folder(teacher), measure.rows_of(calibration))
    assert len(found.energy) == 2 * 6 + 1
    for shares in found.energy.values():
        assert float(shares.sum()) == pytest.approx(1)


def test_influence_is_one_minus_the_cosine(
    teacher: Path, open_folder: Any, calibration: list[Sample]
) -> None:
    model = open_folder(teacher)
    rows = measure.rows_of(calibration)
    with torch.no_grad():
        streams = [
            model.model(input_ids=row[None], output_hidden_states=True).hidden_states[1:3]
            for row in rows
        ]
    turned = [1 - torch.cosine_similarity(*pair, dim=-1) for pair in streams]
    expected = torch.cat([each.flatten() for each in turned]).mean()
    assert float(measure.block_influence(model, rows)[1]) == pytest.approx(float(expected))


def test_measuring_leaves_no_trace(
    teacher: Path, open_folder: Any, calibration: list[Sample]
) -> None:
    model = open_folder(teacher).train()
    measure.importance(model, measure.rows_of(calibration))
    assert model.training
    hooked = [each for each in model.modules() if each._forward_hooks or each._forward_pre_hooks]
    assert not hooked


def test_reading_ends_when_enough_is_known(calibration: list[Sample]) -> None:
    """Samples are drawn one by one, so that a million of them are not opened."""
    drawn = 0

    def endless() -> Any:
        nonlocal drawn
        while True:
            drawn += 1
            yield calibration[0]

    rows = measure.rows_of(endless())
    assert sum(map(len, rows)) >= measure.TOKENS
    assert drawn == len(rows)
    assert isinstance(calibration[0].token_ids, np.ndarray)
