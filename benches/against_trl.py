"""How fast a student learns here, and in TRL's GKD trainer: the same pair, the same tokens.

`python -m senryu.benches.against_trl RUN [--rounds 2] [--samples 64]` takes the stored samples of a
run of `senryu distill` whose student is pruned from its teacher. Each trainer goes once over the
same samples, in a process of its own, in turns; the first step of each is left out (both warm up in
it). TRL asks the teacher again at every step; ours has its distributions stored, which is the point
of storing them; the time that collecting took is not counted. TRL is the one of the lock, so both
run on the same torch. A table for people, the last line JSON for machines. Run it on a quiet
machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from senryu.server.device import detect

BATCH_TOKENS = 2048
LEARNING_RATE = 1e-4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m senryu.benches.against_trl")
    parser.add_argument("run", type=Path, help="the folder of a run of `senryu distill`")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--only", choices=TRAINERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.only:
        print(json.dumps(TRAINERS[arguments.only](arguments.run, arguments.samples)))
        return 0
    rates: dict[str, list[float]] = {name: [] for name in TRAINERS}
    for _ in range(arguments.rounds):
        for name in TRAINERS:
            told = _apart(name, arguments)
            rates[name].append(told["tokens"] / told["seconds"])
            print(f"{name:<8} {rates[name][-1]:8.0f} tokens/s   {told}", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["senryu"] / medians["trl"]
    print(f"senryu is {ratio:.2f} times as fast")
    record = {
        "bench": "against_trl",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect(os.environ).summary,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "tokens_per_second": rates,
        "ratio": ratio,
    }
    print(json.dumps(record))
    return 0


def _apart(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One trainer in a process of its own."""
    command = [sys.executable, "-m", "senryu.benches.against_trl", str(arguments.run)]
    command += ["--samples", str(arguments.samples), "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def _pair(run: Path, count: int) -> tuple[Any, Any, list[Any], Any]:
    """Recipe, student, samples and the teacher's folder of a run."""
    from senryu.distill.recipe_file import read_recipe
    from senryu.distill.shards import ShardStore
    from senryu.distill.students.build import build_student
    from senryu.distill.teachers.open import teacher_folder

    recipe = read_recipe(run / "recipe.toml")
    folder = teacher_folder(recipe.teacher)
    samples = list(ShardStore(run / "samples").samples(held_out=False))[:count]
    # What fits a row, so that neither trainer cuts anything.
    samples = [each for each in samples if len(each.token_ids) <= recipe.train.sequence]
    student, _ = build_student(recipe.student, folder, seed=recipe.train.seed)
    return recipe, student, samples, folder


def _senryu(run: Path, count: int) -> dict[str, Any]:
    import dataclasses

    from senryu.distill import curve
    from senryu.distill.train import train
    from senryu.quant.progress import Silent

    recipe, student, samples, _ = _pair(run, count)
    wanted = dataclasses.replace(
        recipe.train,
        tokens=sum(len(each.token_ids) for each in samples),
        batch_tokens=BATCH_TOKENS,
        learning_rate=LEARNING_RATE,
        loss="forward-kl",
        checkpoint_steps=10**9,
        hidden_weight=0.0,
        on_policy=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        done = train(student, samples, wanted, Path(folder), progress=Silent())
        points = curve.read(Path(folder))
    first, last = points[0], points[-1]
    return {
        "tokens": last.tokens - first.tokens,
        "seconds": last.seconds - first.seconds,
        "steps": len(points) - 1,
        "precision": done.precision,
    }


def _trl(run: Path, count: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from senryu.distill.train import precision

    recipe, student, samples, folder = _pair(run, count)
    half = precision(recipe.train) == torch.bfloat16
    teacher = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if half else torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    mean = sum(len(each.token_ids) for each in samples) / len(samples)
    batch = max(1, round(BATCH_TOKENS / mean))
    ends: list[float] = []
    read: list[int] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        told = _padded(rows, tokenizer.pad_token_id or 0)
        read.append(int(told["attention_mask"].sum()))
        return told

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    rows = [
        {
            "input_ids": each.token_ids.tolist(),
            "labels": [
                int(token) if learnt else -100
                for token, learnt in zip(each.token_ids, each.loss_mask, strict=True)
            ],
        }
        for each in samples
    ]
    with tempfile.TemporaryDirectory() as out:
        trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=GKDConfig(
                output_dir=out,
                lmbda=0.0,  # the stored answers, as ours
                beta=0.0,  # forward KL, as ours
                per_device_train_batch_size=batch,
                num_train_epochs=1,
                learning_rate=LEARNING_RATE,
                bf16=half,
                gradient_checkpointing=False,
                use_cpu=not torch.cuda.is_available(),
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_num_workers=0,
            ),
            data_collator=collate,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return {
        "tokens": sum(read[1 : len(ends)]),
        "seconds": ends[-1] - ends[0],
        "steps": len(ends) - 1,
        "precision": "bfloat16" if half else "float32",
    }


def _padded(rows: list[dict[str, Any]], pad: int) -> dict[str, Any]:
    import torch

    length = max(len(row["input_ids"]) for row in rows)

    def filled(row: list[int], value: int) -> list[int]:
        return row + [value] * (length - len(row))

    return {
        "input_ids": torch.tensor([filled(row["input_ids"], pad) for row in rows]),
        "attention_mask": torch.tensor([filled([1] * len(row["input_ids"]), 0) for row in rows]),
        "labels": torch.tensor([filled(row["labels"], -100) for row in rows]),
    }


TRAINERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"senryu": _senryu, "trl": _trl}

if __name__ == "__main__":
    sys.exit(main())
