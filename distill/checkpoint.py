"""Where training stands, on the disk: what it takes to go on as if nothing had happened.

Comes in: a state of tensors and numbers, and the step after which it holds. Goes out: a folder
`step-00000050`, complete or not there; the last two are kept. A damaged one is passed over for the
one before, and that is said. It refuses to know what is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

KEPT = 2
STATE, ABOUT = "state.pt", "about.json"
_NAME = re.compile(r"step-(\d{8})")


def save(folder: Path, step: int, state: dict[str, Any], about: dict[str, Any]) -> Path:
    """Write the checkpoint and remove those that are too old. `about` is for people, and for
    those who want to know what it is of before they load it."""
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    for stale in folder.glob(".step-*.partial"):
        shutil.rmtree(stale)  # what a killed run left half written
    partial.mkdir(parents=True)
    try:
        _fill(partial, state, {"step": step, **about})
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # the disk may be full
        raise
    if final.exists():  # a damaged one, or one from beyond the point that was gone back to
        shutil.rmtree(final)
    partial.rename(final)
    _flush(folder)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def newest(
    folder: Path, say: Callable[[str], None]
) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """The step, state and `about` of the newest whole checkpoint; None without any."""
    for each in reversed(_all(folder)):
        try:
            about = json.loads((each / ABOUT).read_text(encoding="utf-8"))
            if about["sha256"] != _digest(each / STATE):
                raise ValueError("its contents have changed")
            state = torch.load(each / STATE, map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            say(f"The checkpoint {each} is damaged ({problem}); taking the one before it.")
            continue
        return int(about["step"]), state, about
    return None


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints that are there, oldest first."""
    return [int(each.name.removeprefix("step-")) for each in _all(folder)]


def _all(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted(each for each in folder.iterdir() if _NAME.fullmatch(each.name))


def _fill(partial: Path, state: dict[str, Any], about: dict[str, Any]) -> None:
    torch.save(state, partial / STATE)
    about = {**about, "sha256": _digest(partial / STATE)}
    (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for each in (partial / STATE, partial / ABOUT, partial):
        _flush(each)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
