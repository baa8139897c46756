"""How a quantized folder is compared with its parent, and what it is held to: every default once.

Frozen values. A TOML file names single keys: `[compare]` for how much is measured, `[bounds]` for
what the gate asks.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

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
    """At most, in points: valid calls of 100 begun ones, less than the parent's."""

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

    turns: int = 24
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
            self, tokens=2048, turns=6, structured=4, max_tokens=48, rounds=1
        )


def read_recipe(file: Path) -> CompareRecipe:
    """The recipe in a TOML file. Raises QuantizeError, one sentence."""
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise QuantizeError(f"{file} cannot be read: {problem.strerror}.") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise QuantizeError(f"{file} is not valid TOML: {problem}.") from problem
    own = told.get("compare", {})
    bounds = told.get("bounds", {})
    for name, table in (("compare", own), ("bounds", bounds)):
        if not isinstance(table, dict):
            raise QuantizeError(f"{file}: {name} must be a table; write [{name}].")
    if "bounds" in own:
        raise QuantizeError(f"{file}: write the bounds under [bounds].")
    asked = _values(Bounds, bounds, f"{file}: bounds")
    # Who names bounds names all of them: TOML has no word for one that asks nothing.
    kept = dataclasses.replace(Bounds.none(), **asked) if "bounds" in told else Bounds()
    return CompareRecipe(**_values(CompareRecipe, own, f"{file}: compare"), bounds=kept)


def _values(shape: type[Any], told: dict[str, Any], where: str) -> dict[str, Any]:
    import difflib

    hints = get_type_hints(shape)
    for key in told:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(hints)}."
            raise QuantizeError(f"{where}.{key} is no key of a comparison; {hint}")
    return {key: _value(value, hints[key], f"{where}.{key}") for key, value in told.items()}


def _value(told: Any, hint: Any, where: str) -> Any:
    if hint == tuple[int, ...]:
        whole = isinstance(told, list) and all(type(each) is int and each > 0 for each in told)
        if not whole or not told:
            raise QuantizeError(f"{where} is {told!r}; it takes a list of whole numbers from 1 on.")
        return tuple(told)
    if hint is bool and type(told) is bool:
        return told
    if hint is int and type(told) is int and told > 0:
        return told
    if float in get_args(hint) and type(told) in (int, float) and told >= 0:
        return float(told)
    nouns = {bool: "true or false", int: "a whole number from 1 on"}
    raise QuantizeError(f"{where} is {told!r}; it takes {nouns.get(hint, 'a number from 0 on')}.")
