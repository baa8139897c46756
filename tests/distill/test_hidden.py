"""Hidden states are held against those of the layer that should have reached the same point."""

import pytest
import torch

from senryu.distill.errors import DistillError
from senryu.distill.hidden import matching, pairs, state_loss


def test_a_layer_answers_for_those_left_out_behind_it() -> None:
    assert pairs((0, 3, 6, 9), 12) == ((0, 2), (1, 5), (2, 8), (3, 11))
    assert pairs((0, 1, 2), 3) == ((0, 0), (1, 1), (2, 2))


@pytest.mark.parametrize("kept", [(), (0, 0), (3, 1), (0, 12), (-1, 2)])
def test_layers_that_a_teacher_has_not_are_refused(kept: tuple[int, ...]) -> None:
    with pytest.raises(DistillError, match="must rise"):
        pairs(kept, 12)


def test_it_is_a_part_of_the_teachers_size() -> None:
    """Equal is 0, silence is 1, and a state a hundred times larger counts no more."""
    teacher = torch.randn(5, 8) * torch.tensor([1, 1, 100, 1, 1.0])[:, None]
    assert state_loss(teacher, teacher).tolist() == [0.0] * 5
    torch.testing.assert_close(state_loss(torch.zeros(5, 8), teacher), torch.ones(5))


def test_a_teacher_without_a_state_is_no_division_by_nothing() -> None:
    assert state_loss(torch.zeros(2, 3), torch.zeros(2, 3)).isfinite().all()


def test_all_pairs_count_alike() -> None:
    teacher = [torch.randn(4, 6) for _ in range(5)]
    student = [torch.zeros(4, 6), teacher[2], torch.zeros(4, 6)]
    torch.testing.assert_close(matching(student, teacher, ((0, 1), (1, 3))), torch.full((4,), 0.5))
