"""Student and loss as one module give what they give apart."""

import pytest
import torch
from lessons import some, tiny_student
from plain_losses import token_losses

from senryu.distill import hidden, packing
from senryu.distill.errors import DistillError
from senryu.distill.learner import Learner, run
from senryu.distill.vocabulary import Objective

OBJECTIVE = Objective(loss="forward-kl", mix=0.5, sft_weight=0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_is_that_of_the_plain_way(tied: bool) -> None:
    """Of every weight, the shared embedding too."""
    batch = packing.batch([some(3)], 64, 4)
    model = tiny_student(tied=tied)
    told = model.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    logits = model.lm_head(told.last_hidden_state[0, batch.where])
    wanted = token_losses("forward-kl", 0.5, logits, batch.targets).mean()
    slopes = torch.autograd.grad(wanted, list(model.parameters()))

    learner = Learner(model, chunk=4, dtype=torch.float32)
    loss, _ = learner(batch, OBJECTIVE, scale=1 / len(batch.where))
    loss.backward()
    torch.testing.assert_close(loss, wanted)
    for weight, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(weight.grad, slope, atol=1e-6, rtol=1e-4)


def test_a_student_that_is_its_teacher_matches_it() -> None:
    batch = packing.batch([some(3)], 64, 4)
    model = tiny_student(2)
    learner = Learner(model, chunk=4, dtype=torch.float32)
    matched = hidden.pairs((0, 1), 2)
    with torch.no_grad():
        _, states = run(model, batch, states=True)
        _, alone = learner(batch, OBJECTIVE, scale=1.0)
        same = {"teacher_states": states, "matched": matched, "hidden_weight": 1.0}
        _, sums = learner(batch, OBJECTIVE, scale=1.0, **same)
        other = {**same, "teacher_states": [torch.randn_like(each) for each in states]}
        _, apart = learner(batch, OBJECTIVE, scale=1.0, **other)
    torch.testing.assert_close(sums, alone)
    assert apart[0] > alone[0]
    assert apart[1:].tolist() == alone[1:].tolist()


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_heads_that_do_more_are_refused(name: str) -> None:
    model = tiny_student()
    setattr(model.config, name, 30.0)
    with pytest.raises(DistillError, match="another family"):
        Learner(model, chunk=4, dtype=torch.float32)
