"""Promises of `distill/students/layerwise.py` and its config: each layer has sizes of its own."""

import ast
import copy
import inspect
import json
import pickle
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe
from senryu.distill.students.build import build_student
from senryu.distill.students.layerwise_config import LayerwiseConfig


def built(folder: Path, **told: Any) -> Any:
    return build_student(StudentRecipe(shape="layerwise", **told), folder, seed=0)[0]


def test_sizes_grow_from_the_first_layer_to_the_last(teacher: Path) -> None:
    student = built(teacher, layers=5, kv_range=(1, 4), ffn_range=(1.0, 3.0))
    layers = student.model.layers
    assert [each.mlp.up_proj.out_features for each in layers] == [96, 160, 192, 256, 288]
    assert [each.self_attn.k_proj.out_features // 32 for each in layers] == [1, 2, 2, 4, 4]
    assert {each.self_attn.q_proj.out_features for each in layers} == {128}


def test_without_ranges_of_its_own_only_the_feed_forward_grows(teacher: Path) -> None:
    student = built(teacher, layers=2)
    parts = [
        (each.attention.n_heads_in_group, each.ffn.intermediate_size)
        for each in student.config.block_configs
    ]
    assert parts == [(2, 64), (2, 192)]  # 48 and 192, in steps that the 4-bit kernel takes


def test_attention_is_chosen_for_the_whole_model(teacher: Path, logits: Any) -> None:
    """As the trainer does when it packs samples."""
    student = built(teacher, layers=2, kv_range=(1, 4))
    expected = logits(student)
    student.set_attn_implementation("eager")
    assert {each.self_attn.config._attn_implementation for each in student.model.layers} == {
        "eager"
    }
    assert (logits(student) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_teachers_of_other_families_lend_their_proportions(
    family: str, make_teacher: Any, logits: Any
) -> None:
    assert logits(built(make_teacher(family), layers=2)).isfinite().all()


def test_the_config_survives_the_ways_that_it_travels(tmp_path: Path) -> None:
    """To a file and back, to vLLM's other processes, and into copies; always with attributes."""
    config = LayerwiseConfig(
        num_hidden_layers=2,
        block_configs=[
            {"attention": {"n_heads_in_group": group}, "ffn": {"intermediate_size": 32 * group}}
            for group in (1, 4)
        ],
    )
    config.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["model_type"] == "nemotron-nas"
    for each in (
        config,
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        LayerwiseConfig.from_pretrained(tmp_path),
    ):
        assert each.block_configs[1].attention.n_heads_in_group == 4
        assert each.block_configs[1].ffn.no_op is False
        assert not hasattr(each.block_configs[1].ffn, "ffn_mult")  # vLLM would take it instead


def test_vllm_is_told_of_the_config() -> None:
    """By an entry point, which is there once senryu is installed."""
    (plugin,) = entry_points(group="vllm.general_plugins", name="senryu-shapes")
    plugin.load()()
    plugin.load()()  # it may be called more than once
    from transformers import AutoConfig

    assert isinstance(AutoConfig.for_model("nemotron-nas"), LayerwiseConfig)


def test_the_plugin_asks_for_what_vllm_has_already() -> None:
    """It runs in each process of any server that starts, whatever it serves."""
    asked = set()
    for module in ("senryu.distill", "senryu.distill.students", LayerwiseConfig.__module__):
        source = inspect.getsource(sys.modules[module])
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                asked |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                asked.add("." * node.level + str(node.module))
    assert asked == {"__future__", "typing", "transformers"}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"kv_range": (1, 3)}, "student.kv_range is 3 and the student has 4 query heads"),
        ({"ffn_range": (0.0, 1.0)}, "takes two numbers above 0"),
        ({"kv_heads": 2}, "student.kv_heads means nothing to a student of shape 'layerwise'"),
    ],
)
def test_ranges_that_cannot_be_are_refused(told: dict[str, Any], says: str, teacher: Path) -> None:
    with pytest.raises(DistillError, match=says):
        built(teacher, **told)


def test_a_family_unlike_llama_is_told_what_works(make_teacher: Any) -> None:
    with pytest.raises(DistillError, match="is a Llama inside and a gpt_neox is too different"):
        built(make_teacher("gpt_neox"))
