"""Why a training cannot begin or go on, as one sentence each.

Comes in: what was asked for, or what the machine ran out of. Goes out: DistillError. It refuses to
know how training is done.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import checkpoint, losses
from .distributed import Ranks
from .errors import DistillError
from .master import needs_teacher
from .packing import Lesson
from .recipe import TrainRecipe


def refuse(
    model: Any,
    lessons: Sequence[Lesson],
    recipe: TrainRecipe,
    top_k: int,
    ranks: Ranks,
    *,
    can_ask: bool,
) -> None:
    """Raises DistillError, before anything is computed, where training cannot come to an end."""
    if recipe.sequence < 2:
        raise DistillError("train.sequence must be at least 2: a token is told from another.")
    if not lessons:
        raise DistillError("There is no sample to train on: collect some first.")
    losses.refuse_impossible(recipe.loss, recipe.mix, top_k)
    rows = max(1, recipe.batch_tokens // recipe.sequence)
    size = model.lm_head.weight.shape[0]
    highest = max(int(each.token_ids.max()) for each in lessons)
    refusals = {
        "train.tokens is 0: there is nothing to train.": recipe.tokens == 0,
        f"The samples have token {highest}, and the student knows {size}: it must have the "
        "tokenizer that they were written with.": highest >= size,
        f"A step has {rows} rows of {recipe.sequence} tokens, too few for {ranks.world} processes: "
        "raise train.batch_tokens.": rows < ranks.world,
        "train.on_policy and train.hidden_weight need the teacher as a model beside the student, "
        "and this one is not here: set both to 0.": needs_teacher(recipe) and not can_ask,
        "train.on_policy has the student's answers scored, which the loss sft cannot use: take "
        "another loss.": recipe.on_policy > 0 and recipe.loss == "sft",
        "train.on_policy_tokens must be fewer than train.sequence.": recipe.on_policy > 0
        and recipe.on_policy_tokens >= recipe.sequence,
        "train.on_policy and the optimizer muon work in one process alone: run without torchrun, "
        "or without them.": ranks.world > 1
        and (recipe.on_policy > 0 or recipe.optimizer == "muon"),
    }
    for sentence, so in refusals.items():
        if so:
            raise DistillError(sentence)


def refuse_infinite(step: int, loss: float, norm: float, folder: Path, recipe: TrainRecipe) -> None:
    """Raises DistillError before a broken gradient reaches the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    kept = checkpoint.steps(folder)
    where = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was made yet"
    raise DistillError(
        f"The loss of step {step} is {loss:g} and its gradient's norm {norm:g}, so training "
        f"stopped before it; {where}: lower train.learning_rate ({recipe.learning_rate:g} now) and "
        "run again."
    )


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def one_sentence(folder: Path) -> Iterator[None]:
    """What the machine runs out of, told as a DistillError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as problem:
        raise _too_large() from problem
    except OSError as problem:
        if problem.errno not in _FULL:
            raise
        raise _disk_full(folder) from problem
    except RuntimeError as problem:
        text = str(problem)
        if "can't allocate memory" in text:
            raise _too_large() from problem
        if "PytorchStreamWriter" in text or "file write failed" in text:
            raise _disk_full(folder) from problem
        raise


def _too_large() -> DistillError:
    return DistillError(
        "Training ran out of memory: lower train.batch_tokens, train.sequence or "
        "train.vocabulary_chunk, or set train.gradient_checkpointing = true; the last checkpoint "
        "is kept."
    )


def _disk_full(folder: Path) -> DistillError:
    return DistillError(
        f"The disk of {folder} is full: make room and run again, training goes on from the last "
        "checkpoint."
    )
