"""Preference training: DPO (Rafailov et al. 2023), through TRL's trainer.

Comes in: the student, and pairs of what it wrote itself, as tokens. Goes out: the same model,
trained, and what was seen on the way. Only the two answers carry loss, never the prompt; the
reference is the student as it came. What TRL adds to a model is taken off again.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import RefineRecipe
from senryu.quant.progress import Progress, Silent

from .pairs import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What was seen of the training."""

    pairs: int
    steps: int
    first_loss: float
    last_loss: float
    margin: float
    """How much more the chosen answers gained than the rejected ones, in nats times beta, at the
    end."""
    accuracy: float
    """The share of pairs in the last steps where the chosen answer gained more."""


def refuse_processes() -> None:
    """Raises DistillError under torchrun: one process refines, and the others would wait for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DistillError(
            "A student is refined by one process: leave [refine] out, or run without torchrun."
        )


def prefer(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    recipe: RefineRecipe,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Refined:
    """Train the model in place. Raises DistillError, and the model is then not to be used."""
    refuse_processes()
    if not pairs:
        raise DistillError("There are no preference pairs to refine by: make some first.")
    progress = progress or Silent()
    progress.begin(recipe.steps)
    progress.stage("DPO")
    with tempfile.TemporaryDirectory() as folder, _quiet(), _as_it_was(model, tokenizer):
        trainer = _trainer(model, tokenizer, pairs, recipe, Path(folder), seed, progress)
        with _sentences():
            trainer.train()
    log = [each for each in trainer.state.log_history if "loss" in each]
    losses = [float(each["loss"]) for each in log]
    if not losses or not all(loss == loss for loss in losses):
        raise DistillError(
            "DPO ended in NaN, so the refined student is not kept: lower refine.learning_rate."
        )
    last = log[-max(1, len(log) // 4) :]
    return Refined(
        pairs=len(pairs),
        steps=int(trainer.state.global_step),
        first_loss=losses[0],
        last_loss=losses[-1],
        margin=_mean(last, "rewards/margins"),
        accuracy=_mean(last, "rewards/accuracies"),
    )


def _mean(log: Sequence[dict[str, Any]], name: str) -> float:
    return sum(float(each[name]) for each in log) / len(log)


def _trainer(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    recipe: RefineRecipe,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Any:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import DPOConfig, DPOTrainer

    class FromTokens(DPOTrainer):  # type: ignore[misc]  # TRL is untyped
        """Takes tokens as they are: put into words and read again they might be others, and TRL
        would add an end to an answer that was cut."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            progress.done()

    config = DPOConfig(
        output_dir=str(folder),
        beta=recipe.beta,
        learning_rate=recipe.learning_rate,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        max_length=None,
        seed=seed,
        data_seed=seed,
        use_cpu=model.device.type == "cpu",
        bf16=model.device.type != "cpu",
        gradient_checkpointing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    _on_one_gpu(config)
    rows = Dataset.from_list(
        [
            {
                "prompt_ids": list(each.prompt_ids),
                "chosen_ids": list(each.chosen_ids),
                "rejected_ids": list(each.rejected_ids),
            }
            for each in pairs
        ]
    )
    reference = copy.deepcopy(model).eval()
    for weight in reference.parameters():
        weight.requires_grad_(False)
    for weight in model.parameters():
        weight.requires_grad_(torch.is_floating_point(weight))
    trainer = FromTokens(
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if set(trainer.train_dataset.column_names) != set(rows.column_names):
        raise DistillError(
            "This version of TRL reads pairs in another way than senryu knows: install the one "
            "that the locks name."
        )
    return trainer


def _on_one_gpu(config: Any) -> None:
    """Of several GPUs that can be seen, transformers would take all, copy the model to each at
    every step and multiply the batch by them."""
    config._n_gpu = min(config.n_gpu, 1)  # asking for it sets it, and it has no other handle


@contextlib.contextmanager
def _as_it_was(model: Any, tokenizer: Any) -> Iterator[None]:
    """Afterwards nothing but the weights is new: TRL puts a forward of its own, a padding token and
    tags on a model."""
    training, tags = model.training, list(getattr(model, "model_tags", None) or [])
    config, generation = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    pad, learns = tokenizer.pad_token, [each.requires_grad for each in model.parameters()]
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        for name in ("pad_token_id", "use_cache"):
            if hasattr(config, name):
                setattr(model.config, name, getattr(config, name))
        model.generation_config = generation
        model.model_tags = tags
        tokenizer.pad_token = pad
        for weight, learned in zip(model.parameters(), learns, strict=True):
            weight.requires_grad_(learned)
            weight.grad = None
        model.train(training)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TRL tells its makers which trainer runs, unless it is told not to; and it warns of things
    that are as they should be here."""
    from huggingface_hub import constants

    told = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(trl|accelerate|datasets|multiprocess)\b")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = told


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as full:
        raise DistillError(
            "The memory does not hold DPO with this student: lower refine.batch or "
            "refine.max_tokens."
        ) from full
