"""A student that somebody else made: a model folder or a hub id.

Comes in: its name. Goes out: the folder. It also opens a student's own folder again, whatever its
shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.server.engine.base import EngineError
from senryu.server.engine.model_folder import EMBEDDED, find_model

from . import base


def find(model: str) -> Path:
    """The folder of a model with whole weights; made or fetched first where need be. Raises
    DistillError when it cannot be had."""
    from senryu.quant.embedded import PreparationError, prepare

    try:
        # What 4 bits have lost can neither be learnt nor pruned nor trained.
        return prepare(scheme="bf16") if model == EMBEDDED else find_model(model)
    except PreparationError as problem:
        raise DistillError(str(problem)) from problem
    except EngineError as problem:
        raise DistillError(f"{problem}.") from problem


def open_model(folder: Path) -> tuple[Any, Any]:
    """Model (float32) and tokenizer of a folder: a teacher's, or a student's that was saved."""
    return open_weights(folder), base.open_tokenizer(folder)


def open_weights(folder: Path) -> Any:
    """The model alone."""
    return base.open_weights(folder, base.open_config(folder))
