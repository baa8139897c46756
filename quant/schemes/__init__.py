"""The schemes, one file each; a file is opened when its scheme is named."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from .base import Scheme


class Known(NamedTuple):
    """A scheme that can be had."""

    place: str
    """Its module and class."""
    says: str
    """What the command line says of it."""
    chosen: tuple[str, ...] = ()
    """What may be chosen of it."""
    fixed: Mapping[str, Any] = {}
    """What it is made with."""


_16: Mapping[str, Any] = {"activations": False}
SCHEMES: Mapping[str, Known] = {
    "w4a16": Known(
        "w4a16:W4A16",
        "4-bit integers in groups; everywhere, CPUs too",
        ("group_size", "symmetric", "rounding", "scaling"),
    ),
    "nf4": Known("nf4:NF4", "4-bit NormalFloat of bitsandbytes; everywhere, slow on CPUs"),
    "nvfp4": Known("nvfp4:NvFp4Scheme", "4-bit floats, activations too; Blackwell", ("rounding",)),
    "nvfp4a16": Known("nvfp4:NvFp4Scheme", "4-bit floats; GPUs since Ampere", ("rounding",), _16),
    "mxfp4": Known("mxfp4:MxFp4Scheme", "4-bit floats, activations too; Blackwell", ("rounding",)),
    "mxfp4a16": Known("mxfp4:MxFp4Scheme", "4-bit floats; GPUs since Ampere", ("rounding",), _16),
    "w4a8-fp8": Known(
        "w4a8_fp8:W4A8Fp8", "4-bit integers, activations in 8-bit floats; Hopper", ("rounding",)
    ),
    "fp8": Known("fp8:Fp8Scheme", "8-bit floats, activations too; GPUs since Ada"),
    "w8a8": Known(
        "w8a8:W8A8", "8-bit integers, activations too, after SmoothQuant; CPUs too", ("rounding",)
    ),
    "autoround": Known(
        "autoround:AutoRound", "w4a16, rounded by Intel's AutoRound", ("group_size", "symmetric")
    ),
}


def open_scheme(name: str, **options: Any) -> Scheme:
    """The scheme of this name; options that are None or what nobody chose are left out. Raises
    ValueError for one that it does not take."""
    known = SCHEMES[name]
    taken = dict(known.fixed)
    for key, value in options.items():
        if key in known.chosen:
            taken |= {} if value is None else {key: value}
        elif value is not None and value != _NOBODYS.get(key):
            raise ValueError(f"{name} has no {key.replace('_', ' ')} to choose: leave it out")
    module, _, kind = known.place.partition(":")
    shape = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return cast("Scheme", shape(**taken))


_NOBODYS = {"symmetric": False, "rounding": "gptq", "scaling": "none"}
"""What a recipe says when nobody chose."""
