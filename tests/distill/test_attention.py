"""Sample by sample gives what the masked rows give, in less work."""

from typing import Any

import pytest
import torch
from lessons import some, tiny_student

from senryu.distill import attention, packing
from senryu.distill.learner import run

ROWS = [some(3), some(5)[3:]]


def told(model: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What comes out, and its gradient by every weight."""
    last, _ = run(model, packing.batch(ROWS, 64, 4))
    return last, list(torch.autograd.grad(last.square().sum(), list(model.model.parameters())))


def test_it_equals_the_mask() -> None:
    model = tiny_student()
    last, slopes = told(model)
    with attention.by_sample(model):
        assert model.config._attn_implementation == attention.NAME
        other, others = told(model)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(other, last, atol=1e-5, rtol=1e-5)
    for mine, wanted in zip(others, slopes, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-3, rtol=1e-4)


def test_whoever_knows_no_samples_is_masked_as_before() -> None:
    """Such as the student when it writes, with a cache and filling on the left."""
    model = tiny_student().eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    how = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(ids, **how)
    with attention.by_sample(model):
        assert torch.equal(model.generate(ids, **how), wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [("_attn_implementation", "eager"), ("sliding_window", 8), ("model_type", "gemma3_text")],
)
def test_other_attention_is_left_alone(name: str, value: Any) -> None:
    model = tiny_student()
    setattr(model.config, name, value)
    before = model.config._attn_implementation
    with attention.by_sample(model):
        assert model.config._attn_implementation == before
