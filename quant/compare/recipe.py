"""How a quantized folder is compared with its parent, and what it is held to: every default once.

Frozen values. A TOML file names single keys: `[compare]` for how much is measured, `[bounds]` for
what the gate asks.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from senryu.quant.errors import QuantizeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`[bounds]`: what the gate asks of a folder; None asks nothing. Where a recipe has this
    table, only what stands in it is asked."""

    kl: float | None = 0.25
    """At most, in nats a token over all held-out text."""

    perplexity_ratio: float | None = 1.25
    """At most: perplexity over the parent's."""

    agreement: float | None = 0.75
    """At least: the share of positions with the same first choice."""

    tool_validity_drop: float | None = 1.0
    """At most, in points: valid calls of 100 of the parent's, free to call and begun for it, less
    than the parent's; the worse of the two counts."""

    match: float | None = None
    """At least: the share of recorded turns where the same tools are called as by the parent."""

    match_drop: float | None = None
    """At most, in points: turns of 100 with the recorded tools, less than the parent's."""

    structured_drop: float | None = None
    """At most, in points: JSON answers of 100 that fit their schema without a grammar, less than
    the parent's."""

    size_ratio: float | None = None
    """At most: bytes of the folder over those of the parent's."""

    @classmethod
    def none(cls) -> Bounds:
        """That ask nothing."""
        return cls(**{each.name: None for each in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRecipe:
    """`[compare]`: how much is measured."""

    tokens: int = 16384
    """Of held-out text that both models read."""

    length: int = 1024
    """The most tokens of one passage."""

    speech: bool = True
    """Whether both models are served and asked."""

    turns: int = 48
    """Recorded turns with a tool call that are asked again."""

    structured: int = 12
    """Questions that are to be answered in JSON."""

    max_tokens: int = 96
    """Of one answer."""

    speed: bool = True
    """Whether both are timed on this machine."""

    streams: tuple[int, ...] = (1, 8, 64)
    """How many answers are written at once."""

    output_tokens: int = 32
    """That each stream writes in a round."""

    rounds: int = 2
    """How often each is timed; the models take turns."""

    bounds: Bounds = field(default_factory=Bounds)

    @property
    def serves(self) -> bool:
        """Whether the engine is needed."""
        return self.speech or self.speed

    def quick(self) -> CompareRecipe:
        """Less of everything, for a first look."""
        return dataclasses.replace(
            self,
            tokens=min(self.tokens, 2048),
            turns=min(self.turns, 6),
            structured=min(self.structured, 4),
            max_tokens=min(self.max_tokens, 48),
            rounds=1,
        )


def read_recipe(file: Path) -> CompareRecipe:
    """The recipe in a TOML file. Raises QuantizeError, one sentence."""
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise QuantizeError(f"{file} cannot be read: {problem.strerror}.") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise QuantizeError(f"{file} is not valid TOML: {problem}.") from problem
    from senryu.distill.recipe import RecipeError
    from senryu.distill.recipe_file import built

    for name in told:
        if name not in _TABLES:
            raise QuantizeError(
                f"{file}: {name} is no table of a recipe; it takes {', '.join(_TABLES)}."
            )
    own = told.get("compare", {})
    if isinstance(own, dict) and "bounds" in own:
        raise QuantizeError(f"{file}: write the bounds under [bounds].")
    if told.get("bounds") == {}:
        raise QuantizeError(
            f"{file}: [bounds] is empty and would let everything through: name a bound, or leave "
            "the table out for the defaults."
        )
    try:
        recipe: CompareRecipe = built(CompareRecipe, own, "compare")
        asked: Bounds = built(Bounds, told.get("bounds", {}), "bounds")
    except (RecipeError, OverflowError) as problem:
        raise QuantizeError(f"{file}: {problem}") from problem
    _refuse_nothing(recipe, asked, file)
    if "bounds" not in told:
        return recipe
    # Who names bounds names all of them: TOML has no word for one that asks nothing.
    only = {name: getattr(asked, name) for name in told["bounds"]}
    return dataclasses.replace(recipe, bounds=dataclasses.replace(Bounds.none(), **only))


_TABLES = ("scheme", "calibration", "mixed", "qad", "compare", "bounds")
"""Of the one file that `senryu quantize` and `senryu compare` both read."""


def _refuse_nothing(recipe: CompareRecipe, bounds: Bounds, file: Path) -> None:
    """What a number may be by itself and not in this place."""
    for each in dataclasses.fields(recipe):
        value = getattr(recipe, each.name)
        if type(value) is int and value < 1:
            raise QuantizeError(
                f"{file}: compare.{each.name} is {value}; it takes a whole number from 1 on."
            )
    if not recipe.streams or min(recipe.streams) < 1:
        raise QuantizeError(f"{file}: compare.streams takes a list of whole numbers from 1 on.")
    for name, bound in dataclasses.asdict(bounds).items():
        if bound is not None and not 0 <= bound < math.inf:
            raise QuantizeError(f"{file}: bounds.{name} is {bound:g}; it takes numbers from 0 on.")
