"""Where a training stands: what is saved of it, and how it goes on from there.

Comes in: the learner, its optimizers, a folder. Goes out: a checkpoint, or the step of the newest.
What may not change between the parts of one run is refused, what may is said. It refuses to know
how files are written, which `checkpoint.py` does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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


def nature_of(model: Any, lessons: Sequence[Lesson], recipe: TrainRecipe) -> dict[str, Any]:
    """What may not change between the parts of one run, by the names that people know: which
    sample is read when, what is learnt from it, and who learns."""
    mixes = recipe.loss in ("js", "skew-kl", "skew-reverse-kl")
    return {
        "samples": _digest_of_samples(lessons),
        "student": _digest_of_student(model),
        **{f"train.{key}": getattr(recipe, key) for key in _FIXED},
        "train.mix": recipe.mix if mixes else None,
        "train.on_policy_tokens": recipe.on_policy_tokens if recipe.on_policy else None,
        "train.ema": "some" if recipe.ema else "none",
    }


_FIXED = (
    "sequence",
    "batch_tokens",
    "seed",
    "optimizer",
    "loss",
    "sft_weight",
    "hidden_weight",
    "on_policy",
)


def _digest_of_samples(lessons: Sequence[Lesson]) -> str:
    told = hashlib.sha256()
    for each in lessons:
        told.update(each.token_ids.tobytes() + each.loss_mask.tobytes() + b"|")
    return told.hexdigest()


def _digest_of_student(model: Any) -> str:
    """Of the student before training. Signs of some of its weights tell students apart, and are the
    same for one that another machine has measured and pruned with other rounding."""
    told = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // _SIGNS)] > 0
        told.update(f"{name} {tuple(weight.shape)}".encode() + some.cpu().numpy().tobytes())
    return told.hexdigest()


_SIGNS = 1024
"""That are looked at of each weight."""


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
    _refuse_changes(told["nature"], nature, folder)
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


def _refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    changed = [
        # Digests are nothing to read.
        f"other {key}" if key in ("samples", "student") else f"{key} = {_word(before.get(key))}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if changed:
        raise DistillError(
            f"The training in {folder} began with {' and '.join(changed)}: put back what was "
            f"changed, or delete the folder {folder} to train anew."
        )


def _word(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _tell_changes(
    told: dict[str, Any], recipe: TrainRecipe, ranks: Ranks, progress: Progress
) -> None:
    """What may change, but makes another run of it than an unbroken one."""
    before, now = dict(told), {"processes": ranks.world, "threads": torch.get_num_threads()}
    for key, value in dataclasses.asdict(recipe).items():
        if key != "checkpoint_steps":
            before[f"train.{key}"], now[f"train.{key}"] = told["recipe"].get(key), value
    for key, value in now.items():
        if _plain(before.get(key)) != _plain(value):
            progress.say(f"{key} is {value} now; it was {before.get(key)} before.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
