"""The schemes, one file each; a file is opened when its scheme is named."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .base import Scheme

# name -> (module and class, what is said of it, what it is made with unless told otherwise)
SCHEMES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "w4a16": ("w4a16:W4A16", "4-bit integers in groups; everywhere, CPUs too", {}),
    "nf4": ("nf4:Nf4", "4-bit NormalFloat of bitsandbytes; everywhere, slow on CPUs", {}),
    "nvfp4": ("nvfp4:NvFp4Scheme", "4-bit floats, activations too; Blackwell", {}),
    "nvfp4a16": ("nvfp4:NvFp4Scheme", "4-bit floats; GPUs", {"activations": False}),
    "mxfp4": ("mxfp4:MxFp4Scheme", "4-bit floats, activations too; Blackwell", {}),
    "mxfp4a16": ("mxfp4:MxFp4Scheme", "4-bit floats; GPUs", {"activations": False}),
    "w4a8-fp8": ("w4a8_fp8:W4A8Fp8", "4-bit integers, activations in 8-bit floats; Hopper", {}),
    "fp8": ("fp8:Fp8Scheme", "8-bit floats, activations too; GPUs since Ada", {}),
    "w8a8": ("w8a8:W8A8", "8-bit integers, activations too, after SmoothQuant; everywhere", {}),
    "autoround": ("autoround:AutoRound", "w4a16, rounded by Intel's AutoRound", {}),
}


def open_scheme(name: str, **options: Any) -> Scheme:
    """The scheme of this name. Options that it does not know are left out when they are None or
    their class's default. Raises ValueError for a value that it does not take."""
    place, _, fixed = SCHEMES[name]
    module, _, kind = place.partition(":")
    shape = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return cast("Scheme", shape(**_taken(name, shape, options), **fixed))


def _taken(name: str, shape: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    known = shape.__dataclass_fields__
    taken = {}
    for key, value in options.items():
        if value is None:
            continue
        if key in known:
            taken[key] = value
        elif value != _PLAIN.get(key):
            raise ValueError(f"{name} has no {key.replace('_', ' ')} to choose: leave it out")
    return taken


_PLAIN = {"symmetric": False, "rounding": "gptq", "scaling": "none"}
"""What a recipe says when nobody chose."""
