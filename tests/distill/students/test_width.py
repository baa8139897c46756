"""Promises of `distill/students/width.py`: what matters least goes, and nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.samples import Sample
from senryu.distill.students.build import build_student
from senryu.distill.students.measure import importance, rows_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def built(teacher: Path, samples: list[Sample], **told: Any) -> Any:
    recipe = StudentRecipe(shape="width", **told)
    return build_student(recipe, teacher, calibration=samples, seed=0)[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_everything_kept_it_is_the_teacher(
    family: str, tied: bool, make_teacher: Any, calibration: Any, open_folder: Any, logits: Any
) -> None:
    folder = make_teacher(family, tie_word_embeddings=tied)
    student = built(folder, calibration)
    assert torch.equal(logits(student), logits(open_folder(folder)))
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_channels_go_and_are_not_missed(
    family: str, make_teacher: Any, calibration: Any, open_folder: Any, logits: Any
) -> None:
    """Feed-forward channels that are never loud, in each layer others."""

    def kill(model: Any) -> None:
        for place, layer in enumerate(model.model.layers):
            layer.mlp.up_proj.weight[place : place + 32] = 0

    folder = make_teacher(family, change=kill)
    student = built(folder, calibration, ffn=64)
    assert student.model.layers[3].mlp.up_proj.weight.shape == (64, 128)
    torch.testing.assert_close(logits(student), logits(open_folder(folder)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_groups_of_heads_go_and_are_not_missed(
    family: str, make_teacher: Any, calibration: Any, open_folder: Any, logits: Any
) -> None:
    """A KV head whose values are zero, with its two query heads; in odd layers the other one."""

    def kill(model: Any) -> None:
        for place, layer in enumerate(model.model.layers):
            layer.self_attn.v_proj.weight.unflatten(0, (2, 32))[place % 2] = 0
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias.zero_()

    folder = make_teacher(family, change=kill)
    if family == "qwen2":  # has heads as wide together as the stream: both shrink, or none
        with pytest.raises(DistillError, match=r"change student\.hidden or student\.heads"):
            built(folder, calibration, kv_heads=1)
        return
    student = built(folder, calibration, kv_heads=1)
    assert student.config.num_attention_heads == 2
    torch.testing.assert_close(logits(student), logits(open_folder(folder)), rtol=1e-4, atol=1e-4)


def test_the_weaker_query_heads_go_inside_their_groups(
    make_teacher: Any, calibration: Any, open_folder: Any, logits: Any
) -> None:
    """With as many KV heads and half of the query heads it is a teacher that does not listen to
    the weaker head of each pair."""
    folder = make_teacher(num_hidden_layers=1)
    student = built(folder, calibration, heads=2, kv_heads=2)
    deaf = open_folder(folder)
    loudness = importance(deaf, rows_of(calibration)).heads[0].unflatten(0, (2, 2))
    by_head = deaf.model.layers[0].self_attn.o_proj.weight.data.unflatten(1, (2, 2, 32))
    for group, weaker in enumerate(loudness.argmin(1)):
        by_head[:, group, weaker] = 0
    assert student.model.layers[0].self_attn.num_key_value_groups == 1
    torch.testing.assert_close(logits(student), logits(deaf), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_channels_of_the_stream_go_and_are_not_missed(
    family: str, make_teacher: Any, calibration: Any, open_folder: Any, logits: Any
) -> None:
    """Nobody writes to them. The norms then mean over fewer channels, which is made up for."""
    dead = slice(16, 16 + 64)

    def kill(model: Any) -> None:
        model.model.embed_tokens.weight[:, dead] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[dead] = 0
            layer.mlp.down_proj.weight[dead] = 0

    folder = make_teacher(family, change=kill, num_attention_heads=4, num_key_value_heads=2)
    more = {"heads": 2, "kv_heads": 1} if family == "qwen2" else {}
    student = built(folder, calibration, hidden=64, **more)
    assert student.config.hidden_size == 64
    if not more:
        expected = logits(open_folder(folder))
        torch.testing.assert_close(logits(student), expected, rtol=2e-3, atol=2e-3)


def test_layers_go_too_when_asked(make_teacher: Any, calibration: Any) -> None:
    student = built(make_teacher(), calibration, layers=2, ffn=64, hidden=64)
    assert student.config.num_hidden_layers == len(student.model.layers) == 2


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"ffn": 128}, "student.ffn is 128 and the teacher has 96: pruning only takes away"),
        ({"ffn": 50}, "multiples of 32: set it to 32 or 64"),
        ({"hidden": 100}, "multiples of 32: set it to 96 or 128"),
        ({"heads": 3}, "student.heads is 3 and pruning takes from 2 KV heads .* take 1, 2 or 4"),
        ({"heads": 4, "kv_heads": 1}, "puts 4 query heads to a KV head and the teacher has 2"),
        ({"hidden": 96, "heads": 4, "kv_heads": 3}, "and the teacher has 2: pruning only"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    told: dict[str, Any], says: str, teacher: Path, calibration: Any
) -> None:
    with pytest.raises(DistillError, match=says):
        built(teacher, calibration, **told)


def test_a_stream_that_heads_do_not_divide_is_refused(make_teacher: Any, calibration: Any) -> None:
    """transformers opens no such Llama."""
    folder = make_teacher(num_attention_heads=3, num_key_value_heads=1, hidden_size=96)
    with pytest.raises(DistillError, match="not a multiple of the number of attention heads"):
        built(folder, calibration, hidden=64)


def test_an_unknown_family_is_told_what_works(make_teacher: Any, calibration: Any) -> None:
    folder = make_teacher("olmo2")
    with pytest.raises(DistillError, match=r"knows the layers of llama, .* not those of a olmo2"):
        built(folder, calibration, ffn=64)
