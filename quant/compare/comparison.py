"""What was found when a quantized folder stood beside its parent, as values and as JSON.

Comes in: figures. Goes out: `Comparison`, and the record `report.json`. It refuses to measure and
to know how figures are shown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .measures import Measures
from .speed import Speed
from .spoken import Speech

FORMAT = 1
"""Raised when a reader of the old record would misread the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two folders."""

    name: str
    """As clients call the model."""
    scheme: str
    """`bf16`, or `w4a16, group 32`."""
    bytes: int
    """Of all files of the model."""
    weight_bits: float | None
    """That one weight of the linear layers takes, its share of the scales included; the layers that
    stayed in 16 bits count too."""
    sha256: str
    """Over the names and digests of its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The text that both read."""

    name: str
    sha256: str
    """Over the token ids of all passages."""
    kinds: Mapping[str, int]
    """Conversations of each kind."""
    languages: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that was found."""

    parent: Side
    candidate: Side
    held_out: HeldOut
    measures: Measures
    speech: Speech | None
    """None where nobody was asked."""
    speed: Speed | None
    calibration: Mapping[str, Any] | None
    """What the weights were fitted to, from the candidate's manifest."""
    made: tuple[str, ...]
    """How the candidate was made, in sentences, from its manifest."""
    recipe: Mapping[str, Any]
    """How much was measured, and the bounds."""
    machine: str
    versions: Mapping[str, str]
    date: str
    """ISO 8601, UTC."""
    broken: tuple[str, ...] | None = None
    """The bounds that it broke; None where it was held to none."""
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    @property
    def size_ratio(self) -> float:
        """Bytes over the parent's."""
        return self.candidate.bytes / self.parent.bytes

    def summary(self) -> dict[str, Any]:
        """The main figures by name; None for what was not measured."""
        row = self.measures.all
        speech, speed = self.speech, self.speed
        return {
            "kl": row.kl.value,
            "kl_median": row.kl_median,
            "kl_p99": row.kl_p99,
            "agreement": row.agreement.value,
            "perplexity": row.perplexity.value,
            "parent_perplexity": row.parent_perplexity.value,
            "perplexity_ratio": row.perplexity_ratio,
            "size_ratio": self.size_ratio,
            "weight_bits": self.candidate.weight_bits,
            "tool_validity_drop": speech.tool_validity_drop if speech else None,
            "match": speech.match if speech else None,
            "match_drop": speech.match_drop if speech else None,
            "structured_drop": speech.structured_drop if speech else None,
            "speed": {str(each.streams): each.ratio for each in speed.rates} if speed else None,
            "broken": self.broken,
        }

    def text(self) -> str:
        """The record, as it lies in `report.json`."""
        told = {"format": FORMAT, "summary": self.summary(), **dataclasses.asdict(self)}
        return json.dumps(told, ensure_ascii=False, indent=1) + "\n"
