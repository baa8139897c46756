"""Promises of `distill/students/sizes.py`: what a kernel would refuse is refused here, in words."""

from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.students.sizes import Sizes, grown, pruned

SMOL = Sizes(layers=30, hidden=576, heads=9, kv_heads=3, head_width=64, ffn=1536)
QWEN3 = Sizes(layers=28, hidden=1024, heads=16, kv_heads=8, head_width=128, ffn=3072)


def test_nothing_asked_is_the_base() -> None:
    assert grown(StudentRecipe(shape="scratch"), SMOL) == SMOL
    assert pruned(StudentRecipe(shape="width"), SMOL) == SMOL


def test_a_narrower_student_keeps_the_proportions() -> None:
    """Heads stay as wide as they were, KV heads share the query heads out evenly, and the
    feed-forward layer shrinks with the rest."""
    small = grown(StudentRecipe(shape="scratch", hidden=256, layers=4), SMOL)
    assert small == Sizes(layers=4, hidden=256, heads=4, kv_heads=2, head_width=64, ffn=672)


def test_heads_that_are_wider_than_the_stream_stay_so() -> None:
    small = grown(StudentRecipe(shape="scratch", hidden=512), QWEN3)
    assert (small.heads, small.kv_heads, small.head_width) == (8, 4, 128)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"hidden": 320, "heads": 3}, "set student.hidden to 318 or 321, or student.heads"),
        ({"heads": 9, "kv_heads": 2}, "9 query heads: take 1, 3 or 9, which share them out evenly"),
        ({"ffn": 1000}, "student.ffn is 1000 .* set it to 992 or 1024"),
        ({"hidden": 16, "heads": 1}, "student.hidden is 16 .* set it to 32"),
        ({"hidden": 576, "heads": 12}, "makes heads of width 48 and vLLM's attention takes 32, 64"),
    ],
)
def test_what_cannot_be_served_is_refused(told: dict[str, Any], says: str) -> None:
    with pytest.raises(DistillError, match=says):
        grown(StudentRecipe(shape="scratch", **told), SMOL)


def test_fewer_query_heads_go_in_whole_groups() -> None:
    assert pruned(StudentRecipe(shape="width", heads=6), SMOL).kv_heads == 2
    assert pruned(StudentRecipe(shape="width", heads=4), SMOL).kv_heads == 2
    assert pruned(StudentRecipe(shape="width", kv_heads=1), SMOL).heads == 3
    assert pruned(StudentRecipe(shape="width", heads=3, kv_heads=3), SMOL).kv_heads == 3


def test_query_heads_that_no_pruning_leaves_are_refused() -> None:
    with pytest.raises(DistillError, match=r"heads is 8 and .* take 1, 2, 3, 4, 6 or 9"):
        pruned(StudentRecipe(shape="width", heads=8), SMOL)
