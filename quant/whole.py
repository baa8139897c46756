"""Quantizes with a library that takes the whole model apart itself.

Comes in: a parent and a scheme with `codes`. Goes out: one file for every decoder layer, in the
same work folder as `layers.py` fills. It refuses to know the library.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from .errors import QuantizeError
from .grids import Codes, Integers
from .layers import Work, refuse_shapes
from .packing import pack, weights_only
from .parent import Parent
from .progress import Progress


def quantize_whole(
    parent: Parent,
    scheme: Any,
    tokens: Tensor | None,
    work: Work,
    digest: str,
    progress: Progress,
    *,
    kept: Collection[str] = (),
) -> None:
    """Fill `work`; what a killed run found is lost, since the library keeps it in memory. Raises
    QuantizeError."""
    if tokens is None:
        raise QuantizeError(f"{scheme.name} needs a calibration set: give its tokens.")
    refuse_shapes(parent.skeleton(), scheme, kept)
    count = int(parent.config.num_hidden_layers)
    if work.take(digest) == count:
        return
    progress.stage("quantize")
    grid = Integers(symmetric=scheme.symmetric, group_size=scheme.group_size)
    found: dict[str, Codes] = dict(
        scheme.codes(parent.folder, list(tokens), sorted(kept), progress)
    )
    for index in range(count):
        prefix = f"model.layers.{index}"
        tensors: dict[str, Tensor] = {}
        for name in parent.under(prefix):
            layer, _, own = name.rpartition(".")
            if layer in found and own == "weight":
                packed = pack(found[layer], weights_only(grid))
                tensors |= {f"{layer}.{part}": each for part, each in packed.items()}
            else:
                tensors[name] = parent.plain(name)
        work.put(work.layer(index), tensors)
