"""What the student writes is scored by the teacher, in the form of stored samples."""

import numpy as np
import pytest
import torch
from lessons import VOCABULARY, some, tiny_student

from senryu.distill import on_policy
from senryu.distill.on_policy import prompt_of, stored, write

PROMPTS = [prompt_of(each) for each in some(3)]


def test_the_prompt_is_all_before_the_answer() -> None:
    assert [len(each) for each in PROMPTS] == [3, 4, 5]


def test_the_teacher_scores_each_token_that_the_student_wrote() -> None:
    """Each distribution is the teacher's at the place before that token, in the sample alone."""
    student, teacher = tiny_student(2), tiny_student(3, seed=5)
    torch.manual_seed(3)
    written = write(student.train(), teacher.eval(), PROMPTS, tokens=6, top_k=4)
    assert student.training, "it goes on learning afterwards"
    for prompt, each in zip(PROMPTS, written, strict=True):
        assert (each.token_ids[: len(prompt)] == prompt).all()
        count = len(each.token_ids) - len(prompt)
        assert 1 <= count <= 6
        assert each.loss_mask.sum() == count == len(each.tail)
        logits = teacher(torch.from_numpy(each.token_ids)[None]).logits[0, len(prompt) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.from_numpy(each.top_ids).long())
        np.testing.assert_allclose(each.top_logprobs, wanted.detach().numpy(), atol=1e-5)
        whole = np.exp(each.top_logprobs).sum(axis=1) + each.tail
        np.testing.assert_allclose(whole, 1.0, atol=1e-5)


def test_the_same_chance_writes_the_same() -> None:
    student, teacher = tiny_student(2), tiny_student(3, seed=5)
    told = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        told.append(
            [list(each.token_ids) for each in write(student, teacher, PROMPTS, tokens=8, top_k=2)]
        )
    assert told[0] == told[1] != told[2]


def test_an_answer_ends_where_the_student_ends_it() -> None:
    assert on_policy._until(np.array([4, 5, 1, 0, 0]), [1]).tolist() == [4, 5, 1]
    assert on_policy._until(np.array([4, 5]), [1]).tolist() == [4, 5]


@pytest.mark.parametrize("top_k", [3, VOCABULARY, VOCABULARY + 5])
def test_stored_and_tail_are_the_whole(top_k: int) -> None:
    ids, logprobs, tail = stored(torch.randn(5, VOCABULARY), top_k)
    assert ids.shape == logprobs.shape == (5, min(top_k, VOCABULARY))
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1) + tail, 1.0, atol=1e-5)


def test_a_student_says_nothing_that_the_teacher_cannot_read() -> None:
    """Its matrices have more rows than the teacher's."""
    student, teacher = tiny_student(2), tiny_student(3, seed=5)
    teacher.resize_token_embeddings(8)
    torch.manual_seed(3)
    prompts = [each % 8 for each in PROMPTS]
    written = write(student, teacher.eval(), prompts, tokens=6, top_k=4)
    assert max(each.token_ids.max() for each in written) < 8
