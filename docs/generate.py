"""Writes the pages that are made from the code: `make docs`. A test fails when one is stale."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from senryu.distill import recipe
from senryu.quant import recipe as quantizing
from senryu.quant.compare import recipe as comparing
from senryu.server.engine.profiles import Profile, tuned
from senryu.server.layers import as_toml, documented
from senryu.server.serve import FLAGS
from senryu.server.settings import ServerSettings

HERE = Path(__file__).parent


def configuration() -> str:
    """Every setting of the server, with its flag where it has one."""
    defaults = ServerSettings()
    rows = []
    for name, text in documented(ServerSettings).items():
        flag = f"`--{name.replace('_', '-')}`" if name in FLAGS else ""
        shown = getattr(defaults, name)
        default = "" if shown is None else f"`{as_toml(shown)}`"
        rows.append(f"| `{name}` | {default} | {flag} | {text} |")
    return "\n".join(
        [
            "# Configuration",
            "",
            "Made by `make docs` from `server/settings.py`; edit that file.",
            "",
            "A setting is looked for in this order, and the last one found holds: the default,",
            "`[server]` in `senryu.toml`, `SENRYU_NAME` in the environment, the flag.",
            "`senryu serve --print-config` shows each value and its origin. An unknown name",
            "is an error. `SENRYU_CACHE` says where prepared models are kept (`~/.cache/senryu`).",
            "",
            "| setting | default | flag | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
            "## What a profile sets",
            "",
            "`balanced` sets nothing: it is what the engine is started with otherwise. The names",
            "are vLLM's. Settings of one's own hold before a profile.",
            "",
            "| profile | machine | argument | value | why |",
            "|---|---|---|---|---|",
            *_profiles(),
            "",
        ]
    )


def _profiles() -> list[str]:
    rows = []
    for profile in get_args(Profile):
        for machine, on_cpu in (("GPU", False), ("CPU", True)):
            for each in tuned(profile, on_cpu=on_cpu):
                value = each.value
                if isinstance(value, dict):
                    value = ", ".join(f"{name} {part}" for name, part in value.items())
                rows.append(f"| {profile} | {machine} | `{each.name}` | {value} | {each.why} |")
    return rows


def recipes() -> str:
    """Every key of a recipe for `senryu distill`."""
    parts = [
        "# Recipes for `senryu distill`",
        "",
        "Made by `make docs` from `distill/recipe.py`; edit that file.",
        "",
        "A recipe is a TOML file; [examples/recipes](../examples/recipes) has some to start from.",
        "An unknown key is an error. Only `[teacher]` is required, with its licence: whether you",
        "may train on what the teacher writes is for you to find out, and the student's card says",
        "what you found. Paths are relative to the recipe.",
    ]
    return _page(parts, _tables())


def quantize_recipes() -> str:
    """Every key of a recipe for `senryu quantize` and `senryu compare`."""
    parts = [
        "# Recipes for `senryu quantize`",
        "",
        "Made by `make docs` from `quant/recipe.py` and `quant/compare/recipe.py`; edit those.",
        "",
        "A recipe is a TOML file. Every table and every key may be left out; an unknown key is an",
        "error. Flags change single keys. `senryu compare` reads `[compare]` and `[bounds]` alone.",
    ]
    tables: list[tuple[str, type[Any]]] = [
        ("[scheme]", quantizing.SchemeRecipe),
        ("[calibration]", quantizing.CalibrationRecipe),
        ("[mixed]", quantizing.MixedRecipe),
        ("[qad]", quantizing.QadRecipe),
        ("[compare]", comparing.CompareRecipe),
        ("[bounds]", comparing.Bounds),
    ]
    return _page(parts, tables)


def _page(parts: list[str], tables: list[tuple[str, type[Any]]]) -> str:
    for head, shape in tables:
        parts += ["", f"## `{head}`", "", *_intro(shape), "| key | default | meaning |"]
        parts += ["|---|---|---|"]
        fields = [each for each in dataclasses.fields(shape) if not _is_table(each)]
        defaults = {each.name: each.default for each in fields}
        for name, text in documented(shape).items():
            if name not in defaults:
                continue
            default = defaults[name]
            shown = "" if default in (None, dataclasses.MISSING) else f"`{_toml(default)}`"
            required = " (required)" if default is dataclasses.MISSING else ""
            parts.append(f"| `{name}` | {shown}{required} | {text} |")
    return "\n".join([*parts, ""])


def _is_table(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(field.default_factory)


def _tables() -> list[tuple[str, type[Any]]]:
    return [
        ("[teacher]", recipe.TeacherRecipe),
        *(("[[prompts]]", shape) for shape in recipe.SOURCES.values()),
        ("[collect]", recipe.CollectRecipe),
        ("[student]", recipe.StudentRecipe),
        ("[train]", recipe.TrainRecipe),
        ("[evaluate]", recipe.EvaluateRecipe),
        ("[refine]", recipe.RefineRecipe),
    ]


def _intro(shape: type[Any]) -> list[str]:
    """What a table is about, without the name that its docstring begins with."""
    told = " ".join((shape.__doc__ or "").split())
    if not told.startswith("`kind"):
        told = told.partition(": ")[2]
    return [told[0].upper() + told[1:], ""]


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return as_toml(value)


PAGES = {
    "configuration.md": configuration,
    "recipes.md": recipes,
    "quantize-recipes.md": quantize_recipes,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
