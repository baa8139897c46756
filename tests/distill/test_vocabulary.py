"""The head and the loss in pieces give what they give in one, and never hold all logits."""

import math
from typing import Any

import pytest
import torch
from plain_losses import token_losses
from torch.utils._python_dispatch import TorchDispatchMode

from senryu.distill.losses import Targets
from senryu.distill.vocabulary import Objective, head_loss

NAMES = ("sft", "forward-kl", "reverse-kl", "skew-kl", "skew-reverse-kl", "js")
N, D, V = 10, 6, 13


def case(top_k: int, dtype: torch.dtype = torch.float64) -> tuple[Any, Any, Targets]:
    chance = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, D, generator=chance, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, generator=chance, dtype=dtype, requires_grad=True)
    teacher = (torch.randn(N, V, generator=chance, dtype=dtype) * 2).log_softmax(1)
    top = teacher.topk(top_k, dim=1)
    rest = teacher.exp().scatter(1, top.indices, 0.0).sum(dim=1)
    ids, logprobs = top.indices, top.values
    if top_k > 1:  # some positions are certain
        ids[::4, 1:], logprobs[::4, 0], logprobs[::4, 1:], rest[::4] = 0, 0.0, -math.inf, 0.0
    tokens = torch.randint(V, (N,), generator=chance)
    return hidden, weight, Targets(tokens, ids, logprobs, rest)


def in_one(hidden: Any, weight: Any, targets: Targets, objective: Objective) -> torch.Tensor:
    """All logits at once, and torch's own derivatives."""
    logits = hidden @ weight.T
    loss = token_losses(objective.loss, objective.mix, logits, targets).sum()
    if objective.loss != "sft" and objective.sft_weight:
        loss = loss + objective.sft_weight * token_losses("sft", 0, logits, targets).sum()
    return loss


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("top_k", [1, 4, V])
@pytest.mark.parametrize("chunk", [3, N])
@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_pieces_equal_the_whole(name: Any, top_k: int, chunk: int, sft_weight: float) -> None:
    """The loss and both gradients, for any number of pieces."""
    objective = Objective(loss=name, mix=0.3, sft_weight=sft_weight)
    hidden, weight, targets = case(top_k)
    wanted = in_one(hidden, weight, targets, objective) * 0.25
    slopes = torch.autograd.grad(wanted, (hidden, weight))
    told, sums = head_loss(
        hidden, weight, targets, objective, scale=0.25, chunk=chunk, dtype=torch.float64
    )
    told.backward()
    torch.testing.assert_close(told, wanted)
    torch.testing.assert_close(sums[0] * 0.25, wanted)
    torch.testing.assert_close(hidden.grad, slopes[0])
    torch.testing.assert_close(weight.grad, slopes[1])


def test_text_alone_has_cross_entropy_and_no_distance() -> None:
    hidden, weight, targets = case(0)
    objective = Objective(loss="sft", mix=0.5, sft_weight=0.0)
    told, sums = head_loss(
        hidden, weight, targets, objective, scale=1.0, chunk=4, dtype=torch.float64
    )
    told.backward()
    wanted = in_one(hidden, weight, targets, objective)
    torch.testing.assert_close(told, wanted)
    assert sums[1] == sums[0]
    assert sums[2] == 0
    assert hidden.grad.isfinite().all()


def test_the_distance_is_told_whatever_is_minimised() -> None:
    """Cross-entropy and forward KL stand beside every loss, for people to read."""
    hidden, weight, targets = case(4)
    for name in NAMES:
        objective = Objective(loss=name, mix=0.3, sft_weight=0.0)
        _, sums = head_loss(
            hidden, weight, targets, objective, scale=1.0, chunk=4, dtype=torch.float64
        )
        logits = hidden @ weight.T
        torch.testing.assert_close(sums[1], token_losses("sft", 0, logits, targets).sum())
        torch.testing.assert_close(sums[2], token_losses("forward-kl", 0, logits, targets).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near(dtype: torch.dtype) -> None:
    """float32 to its rounding, bfloat16 to one part in a hundred of what is told."""
    hidden, weight, targets = case(4, torch.float32)
    objective = Objective(loss="forward-kl", mix=0.3, sft_weight=0.2)
    wanted = in_one(hidden, weight, targets, objective)
    slopes = torch.autograd.grad(wanted, (hidden, weight))
    told, _ = head_loss(hidden, weight, targets, objective, scale=1.0, chunk=4, dtype=dtype)
    told.backward()
    near = 1e-5 if dtype == torch.float32 else 1e-2
    for mine, exact in ((told, wanted), (hidden.grad, slopes[0]), (weight.grad, slopes[1])):
        assert (mine - exact).norm() < near * exact.norm()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, list | tuple) else [made]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return made


def test_no_tensor_is_larger_than_a_piece_or_the_head() -> None:
    """200 positions by 1,000 tokens never stand in memory, forwards or backwards."""
    n, d, v, chunk = 200, 4, 1000, 8
    hidden = torch.randn(n, d, requires_grad=True)
    weight = torch.randn(v, d, requires_grad=True)
    ids = torch.arange(n)[:, None] + torch.arange(3)
    logprobs = torch.full((n, 3), 0.25).log()
    targets = Targets(torch.arange(n), ids, logprobs, torch.full((n,), 0.25))
    objective = Objective(loss="js", mix=0.5, sft_weight=0.1)
    with Largest() as largest:
        told, _ = head_loss(hidden, weight, targets, objective, scale=1.0, chunk=chunk)
        told.backward()
    assert largest.numbers <= chunk * v


def test_tokens_that_the_student_lacks_are_among_the_others() -> None:
    """A teacher with padded matrices: the loss and its gradient are those of the tail."""
    hidden, weight, targets = case(V)
    small = weight[: V - 3].detach().requires_grad_()
    own = Targets(targets.tokens % (V - 3), targets.ids, targets.logprobs, targets.tail)
    for name in NAMES:
        objective = Objective(loss=name, mix=0.3, sft_weight=0.2)
        wanted = in_one(hidden, small, own.within(V - 3), objective)
        slopes = torch.autograd.grad(wanted, (hidden, small))
        how = {"scale": 1.0, "chunk": 4, "dtype": torch.float64}
        told, _ = head_loss(hidden, small, own, objective, **how)
        mine = torch.autograd.grad(told, (hidden, small))
        torch.testing.assert_close(told, wanted)
        torch.testing.assert_close(mine, slopes)
