"""Promises of `distill/students/depth.py`: the student is exactly the layers that were kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.samples import Sample
from senryu.distill.students.build import build_student
from senryu.distill.students.depth import evenly


def built(teacher: Path, samples: Any = (), **told: Any) -> Any:
    recipe = StudentRecipe(shape="depth", **told)
    return build_student(recipe, teacher, calibration=samples, seed=0)[0]


def by_hand(model: Any, keep: list[int], ids: torch.Tensor) -> torch.Tensor:
    """The kept layers one after the other, called by us."""
    stream = model.model.embed_tokens(ids)
    places = torch.arange(ids.shape[1])[None]
    turns = model.model.rotary_emb(stream, position_ids=places)
    mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    for place in keep:
        stream = model.model.layers[place](
            stream, attention_mask=mask, position_embeddings=turns, position_ids=places
        )
    return model.lm_head(model.model.norm(stream))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_student_computes_what_its_layers_compute(
    family: str, make_teacher: Any, open_folder: Any, logits: Any, ids: Any
) -> None:
    folder = make_teacher(family)
    student = built(folder, keep=(0, 3, 5))
    with torch.no_grad():
        expected = by_hand(open_folder(folder), [0, 3, 5], ids)
    torch.testing.assert_close(logits(student), expected, rtol=1e-4, atol=1e-4)


def test_all_layers_are_the_teacher(teacher: Path, open_folder: Any, logits: Any) -> None:
    assert torch.equal(logits(built(teacher, layers=6)), logits(open_folder(teacher)))


def test_a_student_writes_token_by_token(teacher: Path, ids: Any) -> None:
    """Its layers know their new places in the KV cache."""
    student = built(teacher, keep=(1, 4)).eval()
    told = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    cached = student.generate(ids, attention_mask=mask, use_cache=True, **told)
    assert torch.equal(cached, student.generate(ids, attention_mask=mask, use_cache=False, **told))


def test_kinds_of_attention_go_with_their_layers(make_teacher: Any) -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    folder = make_teacher("qwen3", layer_types=kinds, sliding_window=4, use_sliding_window=True)
    assert built(folder, keep=(0, 1, 3)).config.layer_types == [kinds[0], kinds[1], kinds[3]]


def test_evenly_spaced_layers_end_with_the_last() -> None:
    assert evenly(30, 10) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 29]
    assert evenly(6, 6) == [0, 1, 2, 3, 4, 5]
    assert evenly(6, 1) == [5]


def test_a_layer_that_does_nothing_goes_first(
    make_teacher: Any, calibration: list[Sample], logits: Any, open_folder: Any
) -> None:
    """Block influence finds the two that add nothing to the stream; nothing changes without."""

    def silence(model: Any) -> None:
        for place in (1, 3):
            model.model.layers[place].self_attn.o_proj.weight.zero_()
            model.model.layers[place].mlp.down_proj.weight.zero_()

    folder = make_teacher(change=silence)
    student = built(folder, calibration, layers=4, importance="block")
    torch.testing.assert_close(logits(student), logits(open_folder(folder)))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"keep": (0, 6)}, r"keep is \[0, 6\] and the teacher has layers 0 to 5"),
        ({"keep": (2, 1)}, "name each of those that stay once, in order"),
        ({"keep": (1, 1)}, "name each of those that stay once, in order"),
        ({"keep": (0, 1), "layers": 3}, "student.keep names 2: leave one out"),
        ({"layers": 7}, "student.layers is 7 and the teacher has 6"),
    ],
)
def test_layers_that_are_not_there_are_refused(
    told: dict[str, Any], says: str, teacher: Path
) -> None:
    with pytest.raises(DistillError, match=says):
        built(teacher, **told)
