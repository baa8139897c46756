"""What cannot come to an end is one sentence, before anything is computed or asked."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from lessons import VOCABULARY, short, tiny_student

from senryu.distill.errors import DistillError
from senryu.distill.recipe import Recipe, StudentRecipe, TeacherRecipe
from senryu.distill.refusals import refuse_mixing, refuse_recipe

TEXTS = [np.arange(12) % VOCABULARY, np.arange(9)[::-1] + 3]


def recipe_of(*, student: Any = None, top_k: int = 4, api: Any = "engine", **train: Any) -> Recipe:
    teacher = TeacherRecipe(
        licence="MIT", allows_training=True, terms="It says so.", top_k=top_k, api=api
    )
    return Recipe(
        teacher=teacher, student=StudentRecipe(**student or {}), train=short(sequence=128, **train)
    )


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"learning_rate": math.nan}, "train.learning_rate is nan; it takes a finite number"),
        ({"learning_rate": math.inf}, "train.learning_rate is inf"),
        ({"weight_decay": math.nan}, "train.weight_decay is nan"),
        ({"betas": (0.9, 1.0)}, r"train.betas is \[0.9, 1.0\]; it takes two numbers"),
        ({"betas": (math.nan, 0.9)}, r"train.betas is \[nan, 0.9\]"),
        ({"ema": 1.0}, "train.ema is 1; it takes 0 to below 1"),
        ({"tokens": 0}, "train.tokens is 0"),
        ({"loss": "js", "top_k": 0}, "hold text only"),
        ({"loss": "js", "api": "openai"}, "hold text only"),
        ({"loss": "skew-kl", "mix": 1.0}, "whatever the student says"),
        ({"loss": "sft", "on_policy": 0.5}, "which the loss sft cannot use"),
        ({"on_policy": 0.5, "on_policy_tokens": 128}, "fewer than train.sequence"),
        ({"on_policy": 0.5, "on_policy_tokens": 0}, "at least 1 and fewer"),
        ({"on_policy": 0.5, "compile": True}, "each length would be compiled: leave one out"),
        ({"loss": "sft", "api": "messages", "hidden_weight": 1.0}, "need the teacher as a model"),
        ({"hidden_weight": 1.0, "student": {"shape": "width"}}, "student.shape = 'depth'"),
        ({"hidden_weight": 1.0, "student": {"importance": "block"}}, "student.shape = 'depth'"),
    ],
)
def test_what_a_recipe_cannot_reach_is_said_before_the_teacher_is_asked(
    changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DistillError, match=sentence):
        refuse_recipe(recipe_of(**changed))


@pytest.mark.parametrize(
    "changed",
    [{}, {"on_policy": 0.5}, {"hidden_weight": 1.0}, {"compile": True}, {"ema": 0.999}],
)
def test_what_can_be_reached_passes(changed: dict[str, Any]) -> None:
    refuse_recipe(recipe_of(**changed))


def test_what_several_processes_cannot_do_is_known_beforehand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillError, match="too few for 2 processes"):
        refuse_recipe(recipe_of(batch_tokens=128))
    with pytest.raises(DistillError, match="muon work in one process alone"):
        refuse_recipe(recipe_of(batch_tokens=512, optimizer="muon"))


def of_family(family: str, **fields: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
    config = AutoConfig.for_model(family, **{**sizes, "pad_token_id": 0, **fields})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if not hasattr(model, "model"):
        object.__setattr__(model, "model", model.base_model)
    return model


def test_a_model_that_tells_samples_apart_passes() -> None:
    """And is as it was."""
    model = tiny_student().train()
    refuse_mixing(model, TEXTS)
    refuse_mixing(model, TEXTS[:1])
    assert model.training


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("mamba", {"state_size": 4}),
        ("bloom", {"n_head": 2}),
    ],
)
def test_a_model_that_would_let_samples_see_each_other_is_refused(
    family: str, fields: dict[str, Any]
) -> None:
    """A state that runs on, and distances in place of positions."""
    with pytest.raises(DistillError, match=f"and a {family} would let each see those before"):
        refuse_mixing(of_family(family, **fields), TEXTS)
