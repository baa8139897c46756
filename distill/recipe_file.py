"""Reads a recipe from its TOML file, or refuses it with one sentence that names the key.

Comes in: a file. Goes out: a `Recipe` (recipe.py). It refuses to know how any stage does its work;
what a recipe asks of weights and machines is judged elsewhere (refusals.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .recipe import SOURCES, PromptSource, Recipe, RecipeError, SelfSource, TeacherRecipe


def read_recipe(file: Path) -> Recipe:
    """The recipe in a TOML file. Paths in it are relative to the file's folder. Raises
    RecipeError, also where the teacher's licence does not allow training on its outputs."""
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe {file}: give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise RecipeError(f"The recipe {file} cannot be read: {problem}.") from problem
    if "teacher" not in told:
        raise RecipeError(
            f"The recipe {file} has no [teacher]: name its model, its licence, and whether that "
            "allows training on its outputs."
        )
    sources = told.get("prompts", [])
    if not isinstance(sources, list):
        raise RecipeError("prompts must be a list of tables, each under [[prompts]].")
    told["prompts"] = [_located(each, file.parent) for each in sources]
    recipe: Recipe = built(Recipe, told, "")
    _refuse_unlicensed(recipe.teacher)
    _refuse_impossible(recipe)
    return recipe


def _refuse_unlicensed(teacher: TeacherRecipe) -> None:
    if not teacher.allows_training:
        raise RecipeError(
            f"The recipe says that the licence of {teacher.model} ({teacher.licence}) does not "
            "allow training on its outputs: take a teacher whose licence does."
        )
    if not teacher.licence.strip() or not teacher.terms.strip():
        raise RecipeError(
            "teacher.licence and teacher.terms must not be empty: they go into the student's card."
        )


def _refuse_impossible(recipe: Recipe) -> None:
    """What each key allows by itself and not in this place."""
    for table, keys in _SHARES.items():
        for key in keys:
            value = getattr(getattr(recipe, table), key)
            if value > 1:
                raise RecipeError(f"{table}.{key} is {value}; it takes 0 to 1.")
    for table, keys in _COUNTS.items():
        for key in keys:
            if not getattr(getattr(recipe, table), key):
                raise RecipeError(f"{table}.{key} is 0; it takes at least 1.")
    for place, source in enumerate(recipe.prompts):
        if isinstance(source, SelfSource) and source.temperature > 2:
            raise RecipeError(f"prompts[{place}].temperature takes 0 to 2.")
        if isinstance(source, SelfSource) and not (source.max_tokens and source.turns):
            raise RecipeError(
                f"prompts[{place}] asks for no turn or no token: both take 1 or more."
            )
    if not recipe.collect.top_p or recipe.collect.temperature > 2:
        raise RecipeError(
            "collect.top_p takes more than 0 and up to 1, collect.temperature 0 to 2."
        )
    if recipe.teacher.url and "@" in recipe.teacher.url:
        raise RecipeError(
            "teacher.url must not hold a password, for the recipe goes into the report: name an "
            "environment variable as teacher.key_variable."
        )
    if recipe.teacher.api != "engine" and not recipe.teacher.url:
        raise RecipeError(
            f"teacher.api is {recipe.teacher.api!r} and teacher.url is missing: give the address "
            "of the endpoint."
        )
    text_only = recipe.teacher.api != "engine" or recipe.teacher.top_k == 0
    if text_only and recipe.train.loss != "sft":
        raise RecipeError(
            f"train.loss is {recipe.train.loss!r} and this teacher gives text only: set it to "
            "'sft', or run the teacher here with teacher.api = 'engine' and a top_k."
        )
    if recipe.student.shape == "model" and not recipe.student.model:
        raise RecipeError("student.shape is 'model' and student.model is missing: name a folder.")


_COUNTS = {
    "teacher": ("streams",),
    "collect": ("max_tokens", "shard_samples"),
    "train": ("tokens", "batch_tokens", "sequence", "checkpoint_steps", "vocabulary_chunk"),
}
_SHARES = {
    "collect": ("top_p", "thinking", "near_duplicates"),
    "train": ("mix", "on_policy", "warmup", "decay", "ema"),
    "evaluate": ("held_out",),
}


def _located(source: Any, folder: Path) -> Any:
    """A source whose path begins at the recipe's folder."""
    path = source.get("path") if isinstance(source, dict) else None
    if not isinstance(path, str) or path == "packaged":
        return source
    return source | {"path": str((folder / Path(path).expanduser()).resolve())}


def built(shape: type[Any], told: Any, where: str) -> Any:
    """An instance of a recipe dataclass from a TOML table."""
    if not isinstance(told, dict):
        raise RecipeError(f"{where} must be a table, as in [{where}].")
    hints = get_type_hints(shape)
    known = {each.name: each for each in dataclasses.fields(shape)}
    for key in told:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
            raise RecipeError(f"{_inside(where, key)} is no key of a recipe; {hint}")
    for name, each in known.items():
        needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if needed and name not in told:
            raise RecipeError(f"The recipe lacks {_inside(where, name)}, which has no default.")
    return shape(**{key: _value(told[key], hints[key], _inside(where, key)) for key in told})


def _value(told: Any, hint: Any, where: str) -> Any:
    if hint == tuple[PromptSource, ...]:
        return tuple(_source(each, f"prompts[{place}]") for place, each in enumerate(told))
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (each for each in get_args(hint) if each is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return built(hint, told, where)  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if told not in get_args(hint):
            raise RecipeError(f"{where} is {told!r}; it takes {_listed(get_args(hint))}.")
        return told
    if get_origin(hint) is tuple:
        return _items(told, get_args(hint), where)
    if hint is float and isinstance(told, int) and not isinstance(told, bool):
        return float(told)
    if type(told) is not hint:
        raise RecipeError(f"{where} is {told!r}; it takes {_NOUN[hint]}.")
    if isinstance(told, int | float) and not isinstance(told, bool) and not 0 <= told < math.inf:
        raise RecipeError(f"{where} is {told!r}; it takes numbers from 0 on.")
    return told


_NOUN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _items(told: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(told, list):
        raise RecipeError(f"{where} is {told!r}; it takes a list.")
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(told)
    if len(hints) != len(told):
        raise RecipeError(f"{where} has {len(told)} items; it takes {len(hints)}.")
    return tuple(_value(each, hint, where) for each, hint in zip(told, hints, strict=True))


def _source(told: Any, where: str) -> Any:
    kind = told.get("kind") if isinstance(told, dict) else None
    if kind not in SOURCES:
        raise RecipeError(f"{where}.kind is {kind!r}; it takes {_listed(tuple(SOURCES))}.")
    return built(SOURCES[str(kind)], told, where)


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _listed(names: tuple[Any, ...]) -> str:
    return ", ".join(repr(each) for each in names[:-1]) + f" or {names[-1]!r}"
