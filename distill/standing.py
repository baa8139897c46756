"""Where a training stands: what is saved of it, and how it goes on from there.

Comes in: the learner, its optimizers, a folder. Goes out: a checkpoint, or the step of the newest.
What may not change between the parts of one run is refused, what may is said. It refuses to know
how files are written, which `checkpoint.py` does.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from senryu.quant.progress import Progress

from . import checkpoint, distributed
from .distributed import Ranks
from .errors import DistillError
from .learner import Learner
from .packing import Lesson
from .recipe import TrainRecipe


def names(learner: Learner) -> dict[str, Any]:
    """The weights by their names; tied ones once."""
    return dict(learner.student.named_parameters())


def nature_of(lessons: Sequence[Lesson], recipe: TrainRecipe) -> dict[str, Any]:
    """What may not change between the parts of one run: it decides which sample is read when."""
    read_digest = hashlib.sha256()
    for each in lessons:
        read_digest.update(each.token_ids.tobytes() + each.loss_mask.tobytes() + b"|")
    return {
        "samples": read_digest.hexdigest(),
        "sequence": recipe.sequence,
        "batch_tokens": recipe.batch_tokens,
        "seed": recipe.seed,
        "optimizer": recipe.optimizer,
        "ema": recipe.ema > 0,
    }


def about(
    nature: dict[str, Any], recipe: TrainRecipe, dtype: torch.dtype, ranks: Ranks
) -> dict[str, Any]:
    return {
        "nature": nature,
        "recipe": dataclasses.asdict(recipe),
        "precision": str(dtype).removeprefix("torch."),
        "processes": ranks.world,
        "threads": torch.get_num_threads(),
    }


def save(
    folder: Path, step: int, state: dict[str, Any], told: dict[str, Any], ranks: Ranks
) -> None:
    whole = distributed.gathered(state)
    if ranks.first:
        checkpoint.save(folder, step, whole, told)
    ranks.wait()


def resume(
    folder: Path,
    learner: Learner,
    makers: Sequence[torch.optim.Optimizer],
    average: Sequence[torch.Tensor],
    nature: dict[str, Any],
    recipe: TrainRecipe,
    ranks: Ranks,
    progress: Progress,
) -> tuple[int, int, float]:
    """The steps, tokens and seconds that lie in the newest whole checkpoint, which is loaded."""
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
    found = checkpoint.newest(folder, progress.say)
    if found is None:
        return 0, 0, 0.0
    step, state, told = found
    changed = [key for key, value in nature.items() if told["nature"].get(key) != value]
    if changed:
        raise DistillError(
            f"The training in {folder} began with other {' and '.join(changed)}: put back what was "
            "changed, or delete the folder to train anew."
        )
    _tell_changes(told, recipe, ranks, progress)
    with torch.no_grad():
        for name, weight in names(learner).items():
            weight.copy_(distributed.put(state["weights"][name], weight))
        for mean, value in zip(average, state["average"], strict=True):
            mean.copy_(distributed.put(value, mean))
    for optimizer, each in zip(makers, state["optimizers"], strict=True):
        distributed.load_optimizer(optimizer, each)
    progress.say(f"Training goes on after step {step}.")
    return step, int(state["tokens"]), float(state["seconds"])


def _tell_changes(
    told: dict[str, Any], recipe: TrainRecipe, ranks: Ranks, progress: Progress
) -> None:
    """What may change, but makes another run of it than an unbroken one."""
    before = {**told["recipe"], "processes": told["processes"], "threads": told["threads"]}
    now = {
        **dataclasses.asdict(recipe),
        "processes": ranks.world,
        "threads": torch.get_num_threads(),
    }
    for key in now:
        if key != "checkpoint_steps" and _plain(before.get(key)) != _plain(now[key]):
            progress.say(
                f"{key} is {now[key]} now; it was {before.get(key)} when this training began."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
