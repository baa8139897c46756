"""Opens the teacher that a recipe names.

Comes in: the recipe's `[teacher]`. Goes out: an open `Teacher`, or DistillError with one sentence.
It refuses to know what is asked of it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.distill.errors import DistillError
from senryu.distill.recipe import TeacherRecipe

from .base import Teacher

if TYPE_CHECKING:
    from senryu.server.settings import ServerSettings


async def open_teacher(recipe: TeacherRecipe) -> Teacher:
    """A model is loaded into an engine of its own, which `close` ends."""
    if recipe.api != "engine":
        return _endpoint(recipe)
    from senryu.server.engine import open_engine
    from senryu.server.engine.base import EngineError

    from .engine import EngineTeacher

    folder = await asyncio.to_thread(teacher_folder, recipe)
    try:
        engine = await open_engine(engine_settings(recipe, folder))
    except EngineError as error:
        raise DistillError(f"The teacher {recipe.model} cannot be opened: {error}.") from error
    return EngineTeacher(engine, folder=folder, top_k=recipe.top_k, streams=recipe.streams)


def engine_settings(recipe: TeacherRecipe, folder: Path) -> ServerSettings:
    """As the model would be served, for as many streams as the recipe asks for."""
    from senryu.server.settings import ServerSettings

    return ServerSettings(model=str(folder), max_streams=max(1, recipe.streams))


def teacher_folder(recipe: TeacherRecipe) -> Path:
    """The folder of a teacher that runs here; made or fetched first where need be. Raises
    DistillError."""
    from senryu.distill.students.existing import find

    try:
        return find(recipe.model)
    except DistillError as problem:
        raise DistillError(f"The teacher {recipe.model} cannot be opened: {problem}") from problem


def _endpoint(recipe: TeacherRecipe) -> Teacher:
    from .endpoint import EndpointTeacher

    if not recipe.url:
        raise DistillError(
            f"teacher.url is missing: a teacher with api = {recipe.api!r} is an endpoint, so the "
            "recipe has to give its address."
        )
    key = None
    if recipe.key_variable is not None:
        key = os.environ.get(recipe.key_variable, "").strip()
        if not key:
            raise DistillError(
                f"The environment variable {recipe.key_variable} is not set: it is to hold the "
                f"key of {recipe.url}."
            )
    return EndpointTeacher(recipe, key=key)
