"""The recipe: everything that decides what becomes of a model's weights, as one TOML file.

Frozen values, with every default written once. Each table of the file is a type here; flags of the
command line change single keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import QuantizeError

REVISION = 2
"""Raise it when the code changes what becomes of the same weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeRecipe:
    """`[scheme]`: how weights are stored."""

    name: str = "w4a16"
    """One of those that `senryu quantize --help` lists."""

    group_size: int | None = None
    """Weights that share a scale; without it, what the scheme is best with."""

    symmetric: bool = False
    """Whether integers are spread evenly around zero: an eighth of a bit smaller, and worse."""

    rounding: Literal["gptq", "nearest"] = "gptq"
    """`gptq` lets weights make up for each other's error, `nearest` rounds each alone."""

    scaling: Literal["none", "awq"] = "none"
    """`awq` first moves scale away from the weights that matter most (Lin et al. 2023)."""

    kv_cache: Literal["auto", "fp8"] = "auto"
    """`fp8` measures scales for a KV cache in 8 bits."""

    keep: tuple[str, ...] = ()
    """Linear layers that stay in 16 bits, as patterns such as `model.layers.0.*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecipe:
    """`[calibration]`: what the weights are fitted to."""

    source: str | None = None
    """A folder with samples of `senryu distill`, or a JSONL file; without it, the packaged set."""

    tokens: int = 16384
    """More is hardly better, and takes longer in proportion."""

    length: int = 512
    """Tokens of one sequence."""

    seed: int = 0
    """Of the order in which a set is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRecipe:
    """`[mixed]`: layers that stay in 16 bits because they matter most."""

    size_budget: float | None = None
    """Of the 16-bit folder's bytes: as many layers stay as fit."""

    kl_budget: float | None = None
    """Nats a token from the 16-bit model: as few layers stay as keep it."""

    tokens: int = 2048
    """That every layer's loss is measured on."""

    @property
    def asked(self) -> bool:
        """Whether any layer may go back."""
        return self.size_budget is not None or self.kl_budget is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class QadRecipe:
    """`[qad]`: distillation through the quantizer, after rounding."""

    tokens: int = 0
    """How many are trained on; 0 leaves the rounded weights as they are."""

    samples: tuple[str, ...] = ()
    """Trained on besides the calibration set: folders of `senryu distill`, or JSONL files."""

    batch_tokens: int = 1024
    """Of one step."""

    sequence: int = 256
    """Tokens of one sequence."""

    codes_rate: float = 1e-2
    """Learning rate of the weights, in steps of their grid; 0 trains the scales alone."""

    scales_rate: float = 2e-3
    """Learning rate of the scales, as a part of each."""

    norms_rate: float = 2e-4
    """Learning rate of the norms' weights."""

    seed: int = 0
    """Of the order in which samples are gone through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeRecipe:
    """A whole recipe."""

    scheme: SchemeRecipe = field(default_factory=SchemeRecipe)
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)
    mixed: MixedRecipe = field(default_factory=MixedRecipe)
    qad: QadRecipe = field(default_factory=QadRecipe)

    def told(self) -> Mapping[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    def digest(self, **more: Any) -> str:
        """SHA-256 over everything in it, this code's revision, and `more`; where a calibration set
        lies does not matter, what is in it belongs to `more`."""
        recipe = {table: dict(keys) for table, keys in self.told().items()}
        del recipe["calibration"]["source"]
        told = {"recipe": recipe, "revision": REVISION, **more}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_recipe(file: Path) -> QuantizeRecipe:
    """The recipe in a TOML file; its paths are relative to the file's folder. Raises
    QuantizeError, one sentence that names the key."""
    from senryu.distill.recipe import RecipeError
    from senryu.distill.recipe_file import built

    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QuantizeError(f"There is no recipe {file}: give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise QuantizeError(f"The recipe {file} cannot be read: {problem}.") from problem
    for judged in ("compare", "bounds"):  # of compare/recipe.py: they change no weight
        told.pop(judged, None)
    calibration, qad = told.get("calibration"), told.get("qad")
    if isinstance(calibration, dict) and isinstance(calibration.get("source"), str):
        told["calibration"] = calibration | {"source": _located(calibration["source"], file)}
    if isinstance(qad, dict) and isinstance(qad.get("samples"), list):
        found = [_located(each, file) if isinstance(each, str) else each for each in qad["samples"]]
        told["qad"] = qad | {"samples": found}
    try:
        recipe: QuantizeRecipe = built(QuantizeRecipe, told, "")
    except RecipeError as problem:
        raise QuantizeError(str(problem)) from problem
    return recipe


def _located(path: str, file: Path) -> str:
    return str((file.parent / Path(path).expanduser()).resolve())
