"""Losses are what their formulas say, on whole vocabularies and on what is stored of them."""

import dataclasses
import math

import pytest
import torch
from plain_losses import token_losses

from senryu.distill.errors import DistillError
from senryu.distill.losses import Targets, divergence, refuse_impossible

NAMES = ("forward-kl", "reverse-kl", "skew-kl", "skew-reverse-kl", "js")
POSITIONS, SIZE = 6, 11


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mixed(a: list[float], b: list[float], weight: float) -> list[float]:
    return [weight * x + (1 - weight) * y for x, y in zip(a, b, strict=True)]


def by_hand(name: str, mix: float, p: list[float], q: list[float]) -> float:
    """The formulas over plain lists of probabilities, in double precision."""
    match name:
        case "forward-kl":
            return kl(p, q)
        case "reverse-kl":
            return kl(q, p)
        case "skew-kl":
            return kl(p, mixed(p, q, mix))
        case "skew-reverse-kl":
            return kl(q, mixed(q, p, mix))
    middle = mixed(p, q, mix)
    return mix * kl(p, middle) + (1 - mix) * kl(q, middle)


def case(top_k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    """The student's logits, the teacher's whole distribution, and what is stored of it."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(POSITIONS, SIZE, generator=chance, dtype=torch.float64) * 2
    teacher = (torch.randn(POSITIONS, SIZE, generator=chance, dtype=torch.float64) * 2).softmax(1)
    top = teacher.topk(top_k, dim=1)
    rest = teacher.scatter(1, top.indices, 0.0).sum(dim=1)
    tokens = torch.randint(SIZE, (POSITIONS,), generator=chance)
    return logits, teacher, Targets(tokens, top.indices, top.values.log(), rest)


def coarse(whole: torch.Tensor, ids: torch.Tensor) -> list[list[float]]:
    """k + 1 outcomes, counted out one by one."""
    rows = []
    for row, stored in zip(whole.tolist(), ids.tolist(), strict=True):
        others = sum(value for place, value in enumerate(row) if place not in stored)
        rows.append([row[place] for place in stored] + [others])
    return rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mix", [0.1, 0.5, 0.9])
def test_with_all_tokens_stored_it_is_the_formula_on_the_whole_vocabulary(
    name: str, mix: float
) -> None:
    logits, teacher, targets = case(SIZE)
    told = token_losses(name, mix, logits, targets)
    student = logits.softmax(1).tolist()
    wanted = [by_hand(name, mix, p, q) for p, q in zip(teacher.tolist(), student, strict=True)]
    assert told.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("top_k", [1, 4, SIZE - 1])
def test_with_some_stored_it_is_the_formula_on_those_and_the_rest(name: str, top_k: int) -> None:
    logits, teacher, targets = case(top_k)
    told = token_losses(name, 0.3, logits, targets)
    p = coarse(teacher, targets.ids)
    q = coarse(logits.softmax(1), targets.ids)
    wanted = [by_hand(name, 0.3, *pair) for pair in zip(p, q, strict=True)]
    assert told.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_less_stored_never_shows_more_difference(name: str) -> None:
    """The whole vocabulary bounds every coarser view."""
    for seed in range(20):
        before = torch.zeros(POSITIONS, dtype=torch.float64)
        for top_k in range(1, SIZE + 1):
            logits, _, targets = case(top_k, seed)
            now = token_losses(name, 0.3, logits, targets)
            assert (now >= before - 1e-9).all()
            before = now


def test_sft_is_the_surprise_at_what_was_written() -> None:
    logits, _, targets = case(3)
    told = token_losses("sft", 0.0, logits, targets)
    rows = zip(logits.softmax(1).tolist(), targets.tokens.tolist(), strict=True)
    assert told.tolist() == pytest.approx([-math.log(row[token]) for row, token in rows])


@pytest.mark.parametrize("name", ["sft", *NAMES])
@pytest.mark.parametrize("top_k", [2, SIZE])
def test_the_gradient_is_the_slope(name: str, top_k: int) -> None:
    """Measured by finite differences."""
    logits, _, targets = case(top_k)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_losses(name, 0.3, x, targets), (logits,))


@pytest.mark.parametrize("name", NAMES)
def test_a_certain_token_has_a_loss_and_a_gradient(name: str) -> None:
    """Logprob 0 first, then -inf, tail 0: beside it all ids mean nothing, even the same again."""
    logits, _, _ = case(3)
    logits.requires_grad_()
    sure = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64).repeat(POSITIONS, 1)
    tokens = torch.arange(POSITIONS)
    targets = Targets(
        tokens, tokens[:, None] * torch.tensor([1, 0, 1]), sure, torch.zeros(POSITIONS)
    )
    told = token_losses(name, 0.3, logits, targets)
    told.sum().backward()
    assert told.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[tokens, tokens] < 0).all(), "more of the certain token is always better"


def test_forward_kl_to_a_certain_token_is_sft() -> None:
    logits, _, _ = case(3)
    tokens = torch.arange(POSITIONS)
    sure = torch.tensor([[0.0, -math.inf]], dtype=torch.float64).repeat(POSITIONS, 1)
    targets = Targets(tokens, torch.stack([tokens, tokens], 1), sure, torch.zeros(POSITIONS))
    told = token_losses("forward-kl", 0.0, logits, targets)
    torch.testing.assert_close(
        told, token_losses("sft", 0.0, logits, targets), atol=1e-7, rtol=1e-7
    )


def test_a_student_that_equals_its_teacher_loses_nothing() -> None:
    _, teacher, targets = case(4)
    for name in NAMES:
        told = token_losses(name, 0.3, teacher.log(), targets)
        assert told.abs().max() < 1e-9


def test_the_ends_of_the_mixtures_are_plain_divergences() -> None:
    _, _, targets = case(4)
    p = targets.log_p(torch.float64)
    q = p.roll(1, 0)
    forward, reverse = (divergence(name, 0.5, p, q) for name in ("forward-kl", "reverse-kl"))
    for name, mix, wanted in [
        ("js", 0.0, forward),
        ("js", 1.0, reverse),
        ("skew-kl", 0.0, forward),
        ("skew-reverse-kl", 0.0, reverse),
    ]:
        torch.testing.assert_close(divergence(name, mix, p, q), wanted)


def test_text_alone_can_only_be_imitated() -> None:
    logits, _, targets = case(0)
    assert token_losses("sft", 0.5, logits, targets).isfinite().all()
    with pytest.raises(DistillError, match=r"hold text only: set train\.loss"):
        token_losses("forward-kl", 0.5, logits, targets)


def test_a_loss_that_is_always_nothing_is_refused() -> None:
    with pytest.raises(DistillError, match="whatever the student says"):
        refuse_impossible("skew-kl", 1.0, 4)
    with pytest.raises(DistillError, match="from 0 to 1"):
        refuse_impossible("js", 1.5, 4)


def test_what_a_longer_vocabulary_stores_is_any_other_token() -> None:
    """A teacher whose matrices have more rows than the student's."""
    logits, _, whole = case(4)
    known = whole.within(SIZE - 2)
    for row in range(POSITIONS):
        inside = whole.ids[row] < SIZE - 2
        assert known.known[row].tolist() == inside.tolist()
        lost = whole.logprobs[row][~inside].exp().sum()
        torch.testing.assert_close(known.tail[row], whole.tail[row] + lost)
    assert not known.known.all(), "some are beyond"
    p = known.log_p(torch.float64).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(POSITIONS).double())
    for name in ("sft", *NAMES):
        told = token_losses(
            name,
            0.3,
            logits[:, : SIZE - 2],
            dataclasses.replace(known, tokens=known.tokens % (SIZE - 2)),
        )
        assert told.isfinite().all()
        assert (told >= 0).all(), "it is a distance of distributions"


def test_a_place_of_which_nothing_is_left_still_has_a_token() -> None:
    tokens = torch.tensor([2])
    sure = torch.tensor([[0.0, -math.inf]])
    known = Targets(tokens, torch.tensor([[9, 0]]), sure, torch.zeros(1)).within(5)
    assert known.places.tolist() == [[2, 2]]
    assert known.tail.tolist() == [1.0]
    assert token_losses("forward-kl", 0.0, torch.randn(1, 5), known).isfinite().all()
