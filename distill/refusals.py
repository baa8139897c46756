"""Why a training cannot begin or go on, as one sentence each.

Comes in: what was asked for, or what the machine ran out of. Goes out: DistillError. It refuses to
know how training is done.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint, losses
from .distributed import Ranks
from .errors import DistillError
from .master import needs_teacher
from .packing import Lesson
from .recipe import Recipe, TrainRecipe


def refuse_recipe(recipe: Recipe) -> None:
    """Raises DistillError where the recipe alone shows that its training cannot come to an end:
    called before the teacher is asked anything."""
    here = recipe.teacher.api == "engine"
    _refuse_keys(recipe.train, recipe.teacher.top_k if here else 0, _world(), can_ask=here)
    student = recipe.student
    if recipe.train.hidden_weight and (
        student.shape != "depth" or (student.importance != "even" and not student.keep)
    ):
        raise DistillError(
            "train.hidden_weight matches the layers that were kept of the teacher, so it wants "
            "student.shape = 'depth' with student.keep or student.importance = 'even'."
        )


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
    if not lessons and recipe.sequence > 1:  # of one token nothing is learnt, and that is said
        raise DistillError("There is no sample to train on: collect some first.")
    _refuse_keys(recipe, top_k, ranks.world, can_ask=can_ask)
    size = model.lm_head.weight.shape[0]
    highest = max(int(each.token_ids.max()) for each in lessons)
    if highest >= size:
        raise DistillError(
            f"The samples have token {highest}, and the student knows {size}: it must have the "
            "tokenizer that they were written with."
        )
    if recipe.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise DistillError(
            f"Models of the kind {model.config.model_type} cannot compute layers twice: set "
            "train.gradient_checkpointing = false."
        )
    refuse_mixing(model, [np.asarray(each.token_ids[:_READ]) for each in lessons[:2]])


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _refuse_keys(recipe: TrainRecipe, top_k: int, world: int, *, can_ask: bool) -> None:
    if recipe.sequence < 2:
        raise DistillError("train.sequence must be at least 2: a token is told from another.")
    for key, value in dataclasses.asdict(recipe).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DistillError(f"train.{key} is {value}; it takes a finite number.")
    losses.refuse_impossible(recipe.loss, recipe.mix, top_k)
    rows = max(1, recipe.batch_tokens // recipe.sequence)
    refusals = {
        "train.tokens is 0: there is nothing to train.": recipe.tokens == 0,
        f"train.betas is {list(recipe.betas)}; it takes two numbers from 0 to below 1, such as "
        "[0.9, 0.95].": not all(0 <= each < 1 for each in recipe.betas),
        f"train.ema is {recipe.ema:g}; it takes 0 to below 1: an average that forgets nothing "
        "learns nothing.": not 0 <= recipe.ema < 1,
        f"A step has {rows} rows of {recipe.sequence} tokens, too few for {world} processes: "
        "raise train.batch_tokens.": rows < world,
        "train.on_policy and train.hidden_weight need the teacher as a model beside the student, "
        "and this one is not here: set both to 0.": needs_teacher(recipe) and not can_ask,
        "train.on_policy has the student's answers scored, which the loss sft cannot use: take "
        "another loss.": recipe.on_policy > 0 and recipe.loss == "sft",
        "train.on_policy_tokens must be at least 1 and fewer than train.sequence.": (
            recipe.on_policy > 0 and not 0 < recipe.on_policy_tokens < recipe.sequence
        ),
        "train.compile and train.on_policy do not go together, for what the student writes grows "
        "token by token and each length would be compiled: leave one out.": recipe.compile
        and recipe.on_policy > 0,
        "train.on_policy and the optimizer muon work in one process alone: run without torchrun, "
        "or without them.": world > 1 and (recipe.on_policy > 0 or recipe.optimizer == "muon"),
    }
    for sentence, so in refusals.items():
        if so:
            raise DistillError(sentence)


_READ, _APART = 16, 1e-3


def refuse_mixing(model: Any, texts: Sequence[np.ndarray]) -> None:
    """Raises DistillError for a model whose samples see each other when they share a row. Borders
    are told by positions alone, which not every family looks at; so it is tried once."""
    first, last = (torch.from_numpy(each.astype(np.int64)) for each in (texts[0], texts[-1]))
    places = torch.cat([torch.arange(len(first)), torch.arange(len(last))])
    was_training = model.training
    model.eval()
    try:
        packed = _read(model, torch.cat([first, last]), places)[len(first) :]
        alone = _read(model, last, places[len(first) :])
    except (TypeError, ValueError) as problem:  # it takes no positions at all
        raise _mixing(model) from problem
    finally:
        model.train(was_training)
    if (packed - alone).norm() > _APART * alone.norm():
        raise _mixing(model)


def _read(model: Any, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        told = model.model(
            input_ids=ids[None].to(device), position_ids=places[None].to(device), use_cache=False
        )
    return told.last_hidden_state[0].float()


def _mixing(model: Any) -> DistillError:
    return DistillError(
        f"Samples are trained on side by side in one row, and a {model.config.model_type} would "
        "let each see those before it: take a student like Llama, Qwen or Mistral."
    )


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
