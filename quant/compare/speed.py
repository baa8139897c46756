"""How large both models are and how fast this machine writes with them.

Comes in: folders, and tokens a second as they were timed. Goes out: `Speed` with a verdict in
words. The models take turns (A B B A), so that what else the machine does falls on both. It refuses
to know the engine: `speaker.py` times one round.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from senryu.quant.errors import QuantizeError

Timed = Callable[[int], float]
"""Streams -> tokens a second of one round."""
ALIKE = 0.05
"""Speeds that differ by less are not told apart: two runs of one model differ as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Tokens a second with so many answers at once, of all of them together."""

    streams: int
    parent: tuple[float, ...]
    """Of each round."""
    candidate: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Candidate over parent."""
        return fmean(self.candidate) / fmean(self.parent)

    @property
    def alike(self) -> bool:
        """Whether they cannot be told apart: hardly a difference, or rounds that overlap."""
        overlap = (
            min(len(self.parent), len(self.candidate)) > 1
            and min(self.parent) <= max(self.candidate)
            and min(self.candidate) <= max(self.parent)
        )
        return overlap or abs(self.ratio - 1) <= ALIKE

    @property
    def times(self) -> str:
        """In front of `as fast`."""
        if self.alike:
            return "about"
        return f"{self.ratio:.{'2g' if self.ratio < 10 else '0f'}} times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Both models, timed on one machine."""

    parent_load_seconds: float
    """From the start of the engine until it can answer."""
    candidate_load_seconds: float
    rates: tuple[Rate, ...]


def rates(streams: Sequence[int], rounds: int, parent: Timed, candidate: Timed) -> tuple[Rate, ...]:
    """Time both in turns. They are warm already."""
    found = []
    for count in streams:
        told: dict[Timed, list[float]] = {parent: [], candidate: []}
        for number in range(rounds):
            order = (parent, candidate) if number % 2 == 0 else (candidate, parent)
            for timed in order:
                told[timed].append(timed(count))
        found.append(
            Rate(streams=count, parent=tuple(told[parent]), candidate=tuple(told[candidate]))
        )
    return tuple(found)


def verdict(found: Sequence[Rate], candidate: str, parent: str, *, advise: bool = True) -> str:
    """How fast both are on this machine and which to serve, in a sentence. `candidate` and
    `parent` are schemes."""
    first, *others = found
    unit = "stream" if first.streams == 1 else "streams"
    parts = [f"{first.times} as fast as {parent} at {first.streams} {unit}"]
    parts += [f"{each.times} as fast at {each.streams}" for each in others]
    told = f"{candidate} is {_listed(parts)}"
    slower = [each.streams for each in found if each.ratio < 1 and not each.alike]
    faster = [each.streams for each in found if each.ratio > 1 and not each.alike]
    if not advise:
        return f"{told}."
    if not slower:
        advice = f"serve {candidate}" if faster else f"serve {candidate} for its size"
    elif len(slower) == len(found):
        advice = f"serve {parent} where the memory allows it"
    else:
        advice = f"at {_listed([str(each) for each in slower])} serve {parent}"
    return f"{told}: {advice}."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def folder_bytes(folder: Path, files: Mapping[str, object]) -> int:
    """Of the files that make the model; of all in the folder where nobody recorded them."""
    names = list(files) or [each.name for each in folder.iterdir() if each.is_file()]
    return sum((folder / name).stat().st_size for name in names)


def stored_bytes(folder: Path) -> dict[str, int]:
    """Of each tensor, read off the heads of the files. Raises QuantizeError."""
    found: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                head = json.loads(stream.read(length))
            for name, told in head.items():
                if name != "__metadata__":
                    start, end = told["data_offsets"]
                    found[name] = end - start
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as problem:
            raise QuantizeError(
                f"{file} is damaged ({problem}): copy the model again, or quantize it again."
            ) from problem
    return found


def weight_bits(stored: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> float | None:
    """That a weight of the linear layers takes, on average. `shapes` are the layers' own, by their
    names. None where none of them was found."""
    sizes: dict[str, int] = {}
    for tensor, size in stored.items():
        layer = tensor.partition(".weight")[0] if ".weight" in tensor else ""
        if layer in shapes:
            sizes[layer] = sizes.get(layer, 0) + size
    weights = sum(math.prod(shapes[layer]) for layer in sizes)
    return 8 * sum(sizes.values()) / weights if weights else None
