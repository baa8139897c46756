"""What must be the same for a kept block to be read again: the model, and how it is computed.

A digest of all of it names the folder that blocks lie in. Whatever changes, blocks of before are
then not found, and expire.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senryu.server.manifest import Manifest

_FORMAT = 1  # raised when the bytes of a block come to be ordered in another way


def weights_identity(folder: Path) -> str:
    """Of a model folder, without reading its weights: size and age of each file, and the digests
    that its manifest records. Raises OSError."""
    try:
        manifest = Manifest.read(folder)
    except ValueError:  # whoever reads the model's facts says what is wrong with it
        manifest = None
    recorded = manifest.files if manifest is not None else {}
    files = {
        file.name: (found.st_size, found.st_mtime_ns)
        for file in folder.iterdir()
        if file.is_file() and (found := file.stat())
    }
    return _digest(
        {"files": files, "recorded": {name: each.sha256 for name, each in recorded.items()}}
    )


def namespace(weights: str, facts: Mapping[str, Any]) -> str:
    """The name of the folder for blocks of this model, computed in this way on this kind of
    processor."""
    return _digest({"format": _FORMAT, "weights": weights, "processor": _processor(), **facts})[:32]


def _processor() -> str:
    """vLLM orders the bytes of a block as suits the instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # `flags` on x86, `Features` on ARM; all cores have the same.
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}"


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
