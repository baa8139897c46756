"""Promises of `distill/students/existing.py` and `base.py`: a model that is no student is refused
with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe, TrainRecipe
from senryu.distill.students.build import build_student, refuse_student


def built(folder: Path | str, **told: Any) -> Any:
    recipe = StudentRecipe(shape="model", model=str(folder), **told)
    return build_student(recipe, None, seed=0)[0]


def configured(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


@pytest.mark.parametrize("family", ["gpt_neox", "olmo2"])
def test_any_causal_language_model_will_do(family: str, make_teacher: Any, logits: Any) -> None:
    """Its parts answer to the names that training knows, whatever the family calls them; and are
    saved under their own only."""
    model = built(make_teacher(family))
    assert logits(model).isfinite().all()
    assert sum(key.endswith("embed_in.weight") for key in model.state_dict()) <= 1


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_family_whose_layers_are_elsewhere_is_one_sentence(
    family: str, make_teacher: Any
) -> None:
    """Also before anything is opened."""
    folder = make_teacher(family)
    with pytest.raises(DistillError, match=f"not find the layers of a {family}: take a model like"):
        built(folder)
    told = StudentRecipe(shape="model", model=str(folder))
    with pytest.raises(DistillError, match="not find the layers"):
        refuse_student(told, TrainRecipe(), None)


def test_the_advice_on_sampling_stays_behind(make_teacher: Any) -> None:
    """A teacher's generation config may contradict itself, and such a thing cannot be saved."""
    folder = make_teacher()
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.6, "top_k": 20}))
    kept = built(folder).generation_config
    assert (kept.eos_token_id, kept.temperature) == (2, None)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="There is no model folder"):
        built(tmp_path / "nowhere")
    with pytest.raises(DistillError, match=r"student\.model is missing"):
        build_student(StudentRecipe(shape="model"), tmp_path, seed=0)


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "haiku"}')
    with pytest.raises(DistillError, match="holds no model that transformers knows"):
        built(tmp_path)


def test_a_quantized_model(teacher: Path) -> None:
    configured(teacher, quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(DistillError, match=r"are quantized .* give the 16-bit model"):
        built(teacher)


def test_a_model_that_changes_its_logits(make_teacher: Any) -> None:
    with pytest.raises(DistillError, match="behind the head \\(final_logit_softcapping\\)"):
        built(make_teacher("gemma2", head_dim=32))


def test_a_model_without_a_template(teacher: Path) -> None:
    (teacher / "chat_template.jinja").unlink()
    with pytest.raises(DistillError, match="has no chat template"):
        built(teacher)


def test_weights_that_are_not_there(teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()
    with pytest.raises(DistillError, match="cannot be opened as a causal language model"):
        built(teacher)
