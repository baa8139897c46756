"""What most schemes do with weights that read the same input: round their rows together, and pack.

Rows are independent of each other, so stacking layers changes nothing but the time: the columns are
walked through once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from senryu.quant.gptq import gptq
from senryu.quant.grids import Codes, Grid, Steps, nearest
from senryu.quant.packing import pack

from .base import Read, Stored

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme


def rounded(
    weights: Mapping[str, Tensor], grid: Grid, read: Read | None, scheme: QuantizationScheme
) -> dict[str, Stored]:
    """Each layer by GPTQ where it is known what they `read`, else to nearest. Raises ValueError."""
    whole = torch.cat([weight.detach().float() for weight in weights.values()])
    codes = nearest(whole, grid) if read is None else gptq(whole, grid, read.moments)
    stored = {}
    start = 0
    for name, weight in weights.items():
        part = rows(codes, start, start + len(weight))
        stored[name] = Stored(tensors=pack(part, scheme), values=part.values())
        start += len(weight)
    return stored


def rows(codes: Codes, start: int, end: int) -> Codes:
    """Some rows of a matrix of codes; what the whole matrix shares stays with them."""
    steps = codes.steps
    return Codes(
        codes=codes.codes[start:end],
        steps=Steps(
            scale=steps.scale[start:end],
            zero=None if steps.zero is None else steps.zero[start:end],
            global_scale=steps.global_scale,
        ),
    )
