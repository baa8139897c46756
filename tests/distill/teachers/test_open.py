"""The teacher that a recipe names is opened, or one sentence says what is missing."""

from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.recipe import TeacherRecipe
from senryu.distill.teachers.endpoint import EndpointTeacher
from senryu.distill.teachers.open import engine_settings, open_teacher, teacher_folder


def recipe(**changed: Any) -> TeacherRecipe:
    return TeacherRecipe(**{"licence": "x", "allows_training": True, "terms": "x"} | changed)


async def test_an_endpoint_is_opened_with_the_key_in_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEACHERS_KEY", "k")
    told = recipe(api="openai", url="http://t.test", key_variable="TEACHERS_KEY", model="m")
    teacher = await open_teacher(told)
    assert isinstance(teacher, EndpointTeacher)
    assert (teacher.card.name, teacher.card.folder) == ("m", None)
    await teacher.close()


async def test_an_endpoint_without_an_address_is_refused() -> None:
    with pytest.raises(DistillError, match=r"^teacher\.url is missing: "):
        await open_teacher(recipe(api="messages"))


@pytest.mark.parametrize("value", [None, "", "  "])
async def test_a_key_that_is_not_set_is_asked_for_by_name(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHERS_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHERS_KEY", value)
    told = recipe(api="messages", url="http://t.test", key_variable="TEACHERS_KEY")
    with pytest.raises(DistillError, match=r"^The environment variable TEACHERS_KEY is not set"):
        await open_teacher(told)


async def test_a_model_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError) as caught:
        await open_teacher(recipe(model=str(tmp_path / "none")))
    assert str(caught.value).startswith(
        f"The teacher {tmp_path}/none cannot be opened: There is no model folder "
    )


def test_a_teacher_that_runs_here_is_served_as_it_is(tmp_path: Path) -> None:
    folder = teacher_folder(recipe(model=str(tmp_path)))
    settings = engine_settings(recipe(streams=5), folder)
    assert (folder, settings.model, settings.max_streams) == (tmp_path, str(tmp_path), 5)
