"""A student of the teacher's family with sizes of its own, from random weights.

Comes in: a recipe and the config of the model whose vocabulary and proportions it takes. Goes out:
the model.
"""

from __future__ import annotations

from typing import Any

from senryu.distill.recipe import StudentRecipe

from . import base
from .sizes import grown, sizes_of


def build(recipe: StudentRecipe, config: Any, *, seed: int) -> Any:
    """The student in float32, of random weights."""
    return base.new_model(planned(recipe, config), seed)


def planned(recipe: StudentRecipe, config: Any) -> Any:
    """Its config. Raises DistillError."""
    return base.changed_config(config, grown(recipe, sizes_of(config)).fields)
